"""Tests which partitions are reported as unread, and which of several reasons is reported."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from sluice.db.delivery.partition_reads import READ_SECONDS, PartitionRead
from sluice.db.delivery.unread_partitions import KNOWN_SECONDS, UnreadKind, find_unread
from sluice.db.records import ProblemKind

READ = PartitionRead("t", 0, None, True, UUID(int=1), None, None, None, None, None, 1.0)
UNREAD = READ._replace(partition=1, unread_seconds=40.0)
SINCE = datetime(2026, 1, 2, tzinfo=UTC)


def troubled(row: PartitionRead, kind: ProblemKind, detail: str = "why") -> PartitionRead:
    return row._replace(problem=kind, detail=detail, problem_since=SINCE, problem_seconds=7.0)


@pytest.mark.parametrize(
    ("row", "bridges", "paused", "kind", "reason", "seconds"),
    [
        (UNREAD, 0, {}, UnreadKind.NO_BRIDGE, "no bridge runs", 40.0),
        (UNREAD, 1, {}, UnreadKind.UNASSIGNED, "no bridge is assigned", 40.0),
        (UNREAD, 1, {"t": "by me"}, UnreadKind.PAUSED, "the topic is paused: by me", 40.0),
        (troubled(UNREAD, ProblemKind.NO_LEADER), 1, {"t": "by me"}, UnreadKind.NO_LEADER, "why", 40.0),
        (troubled(READ, ProblemKind.UNREADABLE_RECORD), 1, {}, UnreadKind.UNREADABLE_RECORD, "why", 7.0),
        (
            troubled(UNREAD, ProblemKind.STOPPED),
            0,
            {},
            UnreadKind.NO_BRIDGE,
            "the last reported problem: why",
            40.0,
        ),
        (
            troubled(UNREAD._replace(reported_seconds=READ_SECONDS + 1), ProblemKind.STOPPED),
            1,
            {},
            UnreadKind.UNASSIGNED,
            "no bridge is assigned",
            40.0,
        ),
    ],
)
def test_the_reported_reason_is_the_reason_that_an_operator_can_act_on(
    row: PartitionRead, bridges: int, paused: dict[str, str], kind: UnreadKind, reason: str, seconds: float
) -> None:
    [found] = find_unread([row], bridges=bridges, paused=paused)
    assert (found.kind, found.seconds) == (kind, seconds)
    assert reason in found.reason


def test_a_stop_of_one_partition_is_the_reason_for_its_whole_topic() -> None:
    other = UNREAD._replace(topic="u")
    rows = [troubled(UNREAD._replace(partition=0), ProblemKind.STOPPED), UNREAD, other]
    assert [(one.topic, one.kind, one.reason) for one in find_unread(rows, bridges=1, paused={})] == [
        ("t", UnreadKind.STOPPED, "why"),
        ("t", UnreadKind.STOPPED, "why"),
        (
            "u",
            UnreadKind.UNASSIGNED,
            "no bridge is assigned to the partition, or its bridge does not report it",
        ),
    ]


def test_a_new_partition_is_listed_only_with_a_problem() -> None:
    new = UNREAD._replace(unread_seconds=READ_SECONDS - 1.0, was_read=False)
    assert not find_unread([new], bridges=1, paused={})
    assert find_unread([troubled(new, ProblemKind.NO_LEADER)], bridges=1, paused={})


def test_a_partition_that_is_read_or_that_no_running_bridge_declares_is_not_listed() -> None:
    old = UNREAD._replace(reported_seconds=KNOWN_SECONDS + 1)
    assert not find_unread([READ, old], bridges=1, paused={})
    assert [one.kind for one in find_unread([old], bridges=0, paused={})] == [UnreadKind.NO_BRIDGE]


def test_every_kind_of_problem_is_a_kind_of_reason() -> None:
    assert {kind.value for kind in ProblemKind} < {kind.value for kind in UnreadKind}
