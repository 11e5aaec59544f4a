"""Reports of bridges about the partitions that they read or cannot read."""

from uuid import UUID, uuid4

import pytest

from sluice.db.connection import Session
from sluice.db.delivery.partition_reads import PartitionRead, read_partition_reads, write_partition_reads
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.runtime.place import Place

PLACE = ("orders", 0)
NO_LEADER = PartitionProblem(ProblemKind.NO_LEADER, "no broker leads it; start its brokers")
BAD = PartitionProblem(ProblemKind.UNREADABLE_RECORD, 'cannot be unpacked: "\\{}', 41)
FIRST, SECOND = UUID(int=1), UUID(int=2)


def only(session: Session) -> PartitionRead:
    (row,) = read_partition_reads(session)
    return row


def age(session: Session, seconds: int) -> None:
    """Moves all times in the rows `seconds` into the past."""
    moved = ", ".join(
        f"{name} = {name} - interval '{seconds} seconds'"
        for name in ("noted_at", "reported_at", "read_at", "problem_since")
    )
    session.command(f"UPDATE sluice.partition_reads SET {moved}")


def test_a_partition_counts_as_unread_from_its_last_report(session: Session) -> None:
    write_partition_reads(session, FIRST, reading=[PLACE], problems={})
    assert only(session)[:5] == ("orders", 0, None, True, FIRST)
    age(session, 100)
    unread = only(session).unread_seconds
    assert unread is not None
    assert 100 <= unread < 200


def test_a_partition_that_was_never_read_counts_as_unread_from_its_first_report(session: Session) -> None:
    write_partition_reads(session, FIRST, reading=[], problems={}, seen=[PLACE])
    age(session, 100)
    write_partition_reads(session, SECOND, reading=[], problems={}, seen=[PLACE])
    row = only(session)
    assert row.unread_seconds is not None
    assert row.unread_seconds >= 100
    assert not row.was_read
    assert row.problem is None


def test_a_problem_keeps_its_start_time_until_its_kind_changes(session: Session) -> None:
    write_partition_reads(session, FIRST, reading=[], problems={PLACE: NO_LEADER})
    age(session, 100)
    write_partition_reads(session, SECOND, reading=[], problems={PLACE: NO_LEADER._replace(detail="else")})
    row = only(session)
    assert (row.problem, row.detail) == (ProblemKind.NO_LEADER, "else")
    assert row.problem_seconds is not None
    assert row.problem_seconds >= 100
    write_partition_reads(session, FIRST, reading=[], problems={PLACE: BAD})
    row = only(session)
    assert (row.problem, row.detail, row.problem_offset) == BAD
    assert row.problem_seconds is not None
    assert row.problem_seconds < 100
    assert row.unread_seconds is not None


@pytest.mark.parametrize("seen", [[], [PLACE]])
def test_a_bridge_that_sees_a_partition_but_does_not_read_it_keeps_the_problem(
    session: Session, seen: list[Place]
) -> None:
    write_partition_reads(session, FIRST, reading=[], problems={PLACE: BAD})
    write_partition_reads(session, SECOND, reading=[], problems={}, seen=seen)
    assert only(session).problem is ProblemKind.UNREADABLE_RECORD


def test_a_bridge_that_reads_the_partition_again_ends_the_problem(session: Session) -> None:
    write_partition_reads(session, FIRST, reading=[], problems={PLACE: BAD})
    write_partition_reads(session, SECOND, reading=[PLACE], problems={})
    row = only(session)
    assert (row.problem, row.detail, row.problem_offset, row.problem_since) == (None, None, None, None)
    assert row.unread_seconds is None


def test_a_bridge_stores_no_problem_of_a_partition_that_another_bridge_reads(session: Session) -> None:
    write_partition_reads(session, FIRST, reading=[PLACE], problems={})
    write_partition_reads(session, SECOND, reading=[], problems={PLACE: NO_LEADER})
    assert only(session).problem is None
    # The bridge that read the partition last stores the problem of the partition.
    write_partition_reads(session, FIRST, reading=[], problems={PLACE: NO_LEADER})
    assert only(session).problem is ProblemKind.NO_LEADER


def test_another_bridge_stores_a_problem_if_the_reading_bridge_no_longer_reports(session: Session) -> None:
    write_partition_reads(session, FIRST, reading=[PLACE], problems={})
    age(session, 16)
    write_partition_reads(session, SECOND, reading=[], problems={PLACE: NO_LEADER})
    assert only(session).problem is ProblemKind.NO_LEADER


def test_rows_of_partitions_without_reports_are_deleted_after_a_day(session: Session) -> None:
    write_partition_reads(session, FIRST, reading=[("gone", 0)], problems={})
    age(session, 25 * 3600)
    write_partition_reads(session, uuid4(), reading=[PLACE], problems={})
    assert only(session).topic == "orders"
