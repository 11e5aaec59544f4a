"""The time that a topic keeps records, and the time that Postgres keeps identities."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.tasks.retention import (
    DAY_SECONDS,
    FOR_EVER_SECONDS,
    MARGIN_SECONDS,
    identity_seconds,
    retention_seconds,
)

FOR_EVER_MS = str(int(FOR_EVER_SECONDS) * 1_000)


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({"cleanup.policy": "delete", "retention.ms": "604800000", "segment.ms": "604800000"}, 1_209_600.0),
        ({"cleanup.policy": "delete", "retention.ms": "604800000", "segment.ms": "1000"}, 604_801.0),
        ({"cleanup.policy": "delete", "retention.ms": "1", "segment.ms": "1"}, 0.002),
        ({"cleanup.policy": "delete", "retention.ms": "0", "segment.ms": "1"}, 0.001),
        ({"cleanup.policy": "delete", "retention.ms": "-1", "segment.ms": "1"}, None),
        ({"cleanup.policy": "delete", "retention.ms": str(2**63 - 1), "segment.ms": "1"}, None),
        ({"cleanup.policy": "delete", "retention.ms": "1", "segment.ms": str(2**63 - 1)}, None),
        ({"cleanup.policy": "delete", "retention.ms": FOR_EVER_MS, "segment.ms": "1"}, None),
        ({"cleanup.policy": "delete", "retention.ms": "1"}, None),
        ({"cleanup.policy": "delete", "segment.ms": "1"}, None),
        ({"cleanup.policy": "compact", "retention.ms": "1", "segment.ms": "1"}, None),
        ({"cleanup.policy": "compact,delete", "retention.ms": "1", "segment.ms": "1"}, None),
        ({"retention.ms": "1", "segment.ms": "1"}, None),
        ({}, None),
    ],
)
def test_the_retention_of_a_topic_follows_from_its_configuration(
    config: dict[str, str], seconds: float | None
) -> None:
    assert retention_seconds(config) == seconds


@pytest.mark.parametrize(
    ("wanted_days", "topic_days", "parked_days", "days"),
    [
        (30, 7, 0, 30),
        (30, 29, 0, 30),
        (30, 30, 0, 31),
        (30, 7, 22, 30),
        (30, 7, 40, 48),
        (1, 7, 0, 8),
        (1, 0, 0, 1),
        (30, None, 0, None),
        (30, None, 99, None),
    ],
)
def test_identities_are_kept_longer_than_the_records(
    wanted_days: float, topic_days: float | None, parked_days: float, days: float | None
) -> None:
    found = identity_seconds(
        wanted_seconds=wanted_days * DAY_SECONDS,
        topic_retention_seconds=None if topic_days is None else topic_days * DAY_SECONDS,
        oldest_parked_seconds=parked_days * DAY_SECONDS,
    )
    assert found == (None if days is None else days * DAY_SECONDS)


ages = st.floats(0, 1e9)


@given(ages, ages, ages)
def test_an_identity_is_kept_until_kafka_has_deleted_the_records_that_may_be_redriven(
    wanted: float, topic: float, parked: float
) -> None:
    found = identity_seconds(
        wanted_seconds=wanted, topic_retention_seconds=topic, oldest_parked_seconds=parked
    )
    assert found is not None
    assert found >= wanted
    assert found >= topic + parked + MARGIN_SECONDS
