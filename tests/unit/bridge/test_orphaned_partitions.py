"""Tests when a bridge joins its group again because a partition has no bridge.

A partition is overdue if it had no bridge for too long. A bridge is overdue if it had no partition for too
long, although there are enough partitions. A spare bridge has no partition, because all
partitions have another bridge.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.group_member import REJOIN_SECONDS
from sluice.bridge.inflight import Inflight
from sluice.bridge.loop import Bridge
from sluice.bridge.orphaned_partitions import (
    EMPTY_SECONDS,
    MAX_EMPTY_SECONDS,
    ORPHANED_SECONDS,
    EmptyAssignment,
    OrphanedPartitions,
)
from sluice.bridge.progress_store import Progress
from sluice.bridge.publisher import PublisherUnavailable
from sluice.bridge.read_report import REPORT_SECONDS
from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place
from tests.unit.bridge.bridging import NoWatch

PLACES: list[Place] = [("t", 0), ("t", 1), ("u", 0)]


@given(st.lists(st.sets(st.sampled_from(PLACES)), min_size=1, max_size=150), st.integers(0, 2))
def test_a_partition_is_overdue_if_every_recent_check_found_it_without_a_bridge(
    looks: list[set[Place]], instance: int
) -> None:
    unread = OrphanedPartitions()
    for now, found in enumerate(looks):
        unread.note(found, float(now))
    patience = int(ORPHANED_SECONDS) * (1 + instance)
    of_late = looks[-patience - 1 :]
    always = set(PLACES).intersection(*of_late) if len(of_late) > patience else set()
    assert unread.overdue(float(len(looks) - 1), instance) == sorted(always)


FACTS = {"t": TopicFacts("t-id", 2), "u": TopicFacts("u-id", 1)}


@given(st.lists(st.booleans(), max_size=200))
def test_a_bridge_is_overdue_only_after_a_long_time_without_any_partition(
    has: list[bool],
) -> None:
    empty, since = EmptyAssignment(), None
    for now, assigned in enumerate(has):
        overdue = empty.is_overdue(assigned, FACTS, 0, float(now))
        since = None if assigned else now if since is None else since
        assert not overdue or (since is not None and now - since >= EMPTY_SECONDS)
        since = None if overdue else since


def test_a_bridge_that_stays_without_partitions_waits_longer_each_time() -> None:
    empty = EmptyAssignment()
    found = [now for now in range(5_000) if empty.is_overdue(False, FACTS, 2, float(now))]
    pauses = [after - before for before, after in itertools.pairwise(found)]
    assert found[0] == EMPTY_SECONDS
    assert pauses == sorted(pauses)
    assert max(pauses) <= MAX_EMPTY_SECONDS + 1
    assert not empty.is_overdue(True, FACTS, 2, 5_000.0)
    assert not empty.is_overdue(False, FACTS, 2, 5_001.0)
    assert empty.is_overdue(False, FACTS, 2, 5_001.0 + EMPTY_SECONDS), "the wait is as short as at first"


def test_a_spare_bridge_is_never_overdue() -> None:
    empty = EmptyAssignment()
    assert not any(empty.is_overdue(False, FACTS, 3, float(now)) for now in range(5_000))


def test_a_bridge_of_a_share_is_spare_above_the_partitions_of_the_largest_topic() -> None:
    """The group assigns each topic separately, so the first bridges get partitions of all topics."""
    share = PartitionShare(1, 2)
    shared = {"t": TopicFacts("t-id", 2, share=share), "u": TopicFacts("u-id", 4, share=share)}
    assert not any(EmptyAssignment().is_overdue(False, shared, 4, now) for now in (0.0, 1_000.0))
    empty = EmptyAssignment()
    assert [empty.is_overdue(False, shared, 3, now) for now in (0.0, EMPTY_SECONDS)] == [False, True]


class _Kafka:
    """A group member with one partition and no records."""

    closed = False

    def poll(self, _: float) -> dict[Place, list[Any]]:
        return {}

    def take_changes(self) -> frozenset[Place]:
        return frozenset()

    def take_truncated(self) -> dict[Place, str]:
        return {}

    def assignment(self) -> frozenset[Place]:
        return frozenset([("t", 0)])

    def has_partitions(self) -> bool:
        return True

    def log_ranges(self, _: Iterable[Place]) -> dict[Place, LogRange]:
        return {}

    def take_readable(self) -> frozenset[Place]:
        return frozenset()

    def take_errors(self) -> list[Any]:
        return []

    def topic_errors(self) -> dict[str, Any]:
        return {}

    def brokers_answer(self) -> bool:
        return True

    def pause_exactly(self, _: Iterable[Place]) -> None:
        return

    def topics(self) -> dict[str, TopicFacts]:
        return {"t": TopicFacts("t-id", 2)}

    def paused(self) -> frozenset[Place]:
        return frozenset()

    def commit(self, _: Mapping[Place, int]) -> None:
        return

    def close(self) -> None:
        self.closed = True


class _Postgres:
    """A store that has rows for all partitions while `known` is True."""

    known = True

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        return {place: Assignment("t-id", "e", 1, 1, 1, 0, {}) for place in places if self.known}

    def read_skipped(self) -> dict[Place, Any]:
        return {}

    def claim_instance(self) -> int:
        return 0

    def write_reads(self, reader: Any, **_: Any) -> None:
        return

    def read_reads(self) -> list[Any]:
        return []

    def keep_instance(self, _: int) -> bool:
        return True

    def read_progress(self, _: Iterable[Place], __: Iterable[str] = ()) -> Progress:
        return Progress({}, frozenset(), frozenset())

    def settle_progress(self, places: Iterable[Place], decide: Any) -> None:
        decide(self.read_progress(places))


class _NoRedis:
    def probe(self, *_: Iterable[str]) -> Any:
        raise PublisherUnavailable("none here")


@pytest.fixture
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.usefixtures("quiet")
def test_a_bridge_joins_again_with_a_new_name_but_not_too_often() -> None:
    now = [0.0]
    opened: list[tuple[str, _Kafka]] = []

    postgres = _Postgres()
    bridge = make_bridge(postgres, opened, now)

    def turn_for(seconds: float) -> None:
        until = now[0] + seconds
        while now[0] < until:
            now[0] += 1.0
            bridge.run_once()

    turn_for(2 * ORPHANED_SECONDS)
    assert [name for name, _ in opened] == ["bridge-0"]
    postgres.known = False
    turn_for(ORPHANED_SECONDS - 5.0)
    assert len(opened) == 1
    turn_for(2 * REPORT_SECONDS + 5.0)
    (_, first), (name, second) = opened
    assert (first.closed, second.closed) == (True, False)
    assert name.startswith("bridge-0-")
    turn_for(REJOIN_SECONDS - 30.0)
    assert len(opened) == 2
    turn_for(40.0)
    assert len(opened) == 3
    assert opened[2][0] not in ("bridge-0", name)


@pytest.mark.usefixtures("quiet")
def test_a_consumer_that_is_never_assigned_a_partition_is_replaced_with_the_same_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Kafka, "assignment", lambda _: frozenset())
    monkeypatch.setattr(_Kafka, "has_partitions", lambda _: False)
    now = [0.0]
    opened: list[tuple[str, _Kafka]] = []
    bridge = make_bridge(_Postgres(), opened, now)
    for second in range(int(EMPTY_SECONDS) + 3):
        now[0] = float(second)
        bridge.run_once()
    assert [name for name, _ in opened] == ["bridge-0", "bridge-0"]
    assert [consumer.closed for _, consumer in opened] == [True, False]


def make_bridge(store: Any, opened: list[tuple[str, _Kafka]], now: list[float]) -> Bridge:
    """Returns a bridge that appends its consumers with their names to `opened`. Its clock is `now[0]`."""

    def make(name: str) -> Any:
        opened.append((name, _Kafka()))
        return opened[-1][1]

    publisher: Any = _NoRedis()
    watch: Any = NoWatch()
    return Bridge(
        make_consumer=make,
        store=store,
        publisher=publisher,
        topics={},
        inflight=Inflight(max_bytes=1_000, max_span=1_000),
        metrics=BridgeMetrics(),
        watch=watch,
        clock=lambda: now[0],
        sleep=lambda _: None,
    )
