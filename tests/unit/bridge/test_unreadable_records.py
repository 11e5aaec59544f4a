"""A bridge reports a problem of the partition until an operator skips the unreadable record."""

from typing import Any, cast

import pytest

from sluice.bridge import unreadable_records
from sluice.bridge.inflight import Inflight
from sluice.bridge.partition_problems import PartitionProblems
from sluice.bridge.unreadable_records import (
    LOOK_SECONDS,
    STALLED_SECONDS,
    PositionWatch,
    UnreadableRecords,
)
from sluice.db.delivery.progress import Assignment
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.kafka_io.config import MAX_POLL_RECORDS
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange
from tests.mutants import mutated

PLACE: Place = ("t", 0)


class _Bridge:
    """A bridge that reads one partition from offset 4 on, with its consumer and its store."""

    def __init__(self) -> None:
        self.now = 0.0
        self.end = 9
        self.sought: list[tuple[Place, int]] = []
        self.is_paused = False
        self.skipped: dict[Place, list[SkippedRange]] = {}
        self.problems = PartitionProblems()
        self.inflight = Inflight(max_bytes=1_000, max_span=1_000)
        self.inflight.start(PLACE, Assignment("t-id", "e", 1, 1, 1, 4, {}), 4)
        store = cast("Any", self)
        self.unreadable = UnreadableRecords(store, self.inflight, cast("Any", self), self.problems)

    def look(self, seconds: float) -> PartitionProblem | None:
        """Advances the clock by `seconds`. Returns the problem of the partition."""
        for _ in range(int(seconds / LOOK_SECONDS) + 1):
            self.now += LOOK_SECONDS
            self.unreadable.look(cast("Any", self), self.now)
        return self.problems.current().get(PLACE)

    def read_skipped(self) -> dict[Place, list[SkippedRange]]:
        return self.skipped

    def paused(self) -> frozenset[Place]:
        return frozenset([PLACE] if self.is_paused else [])

    @property
    def ends(self) -> dict[Place, int]:
        return {PLACE: self.end}

    def seek(self, place: Place, offset: int) -> None:
        self.sought.append((place, offset))


def record(offset: int) -> Record:
    return Record(offset, 0, b"k", b"v", [])


def test_a_position_that_does_not_advance_is_reported_at_intervals() -> None:
    watch = PositionWatch()
    assert watch.note({PLACE: 4}, 0) == (set(), set())
    assert watch.note({PLACE: 4}, STALLED_SECONDS - 1) == (set(), set())
    assert watch.note({PLACE: 4}, STALLED_SECONDS) == (set(), {PLACE})
    assert watch.note({PLACE: 4}, STALLED_SECONDS + 1) == (set(), set())
    assert watch.note({PLACE: 4}, 2 * STALLED_SECONDS) == (set(), {PLACE})
    assert watch.note({PLACE: 5}, 3 * STALLED_SECONDS) == ({PLACE}, set())
    assert watch.note({}, 4 * STALLED_SECONDS) == ({PLACE}, set())


def test_a_partition_that_stops_before_the_end_of_its_log_has_an_unreadable_record() -> None:
    bridge = _Bridge()
    assert bridge.look(STALLED_SECONDS - 2 * LOOK_SECONDS) is None
    found = bridge.look(STALLED_SECONDS)
    assert found is not None
    assert (found.kind, found.offset) == (ProblemKind.UNREADABLE_RECORD, 4)
    assert "sluice skip t:0:4" in found.detail
    bridge.inflight.take(PLACE, [record(4)], bridge.now)
    assert bridge.look(LOOK_SECONDS) is None


def test_a_partition_has_no_problem_while_the_client_may_hold_its_records() -> None:
    bridge = _Bridge()
    for _ in range(20):
        bridge.unreadable.note_polled(MAX_POLL_RECORDS)
        assert bridge.look(0) is None, "a poll returns at most this number of records of other partitions"
    assert bridge.look(STALLED_SECONDS + LOOK_SECONDS) is not None


def test_a_partition_has_no_problem_after_a_time_without_polls() -> None:
    bridge = _Bridge()
    for _ in range(3):
        bridge.now += STALLED_SECONDS
        assert bridge.look(0) is None
    assert bridge.look(STALLED_SECONDS + LOOK_SECONDS) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" or is_late:", ":"),
        ("since_last > LATE_SECONDS or not", "not"),
        ("since_last > LATE_SECONDS or not self._polled_all", "since_last > LATE_SECONDS"),
        ("self._looked_at, self._polled_all = now, True", "self._looked_at = now"),
    ],
)
def test_a_mutant_of_the_watch_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    mutant = mutated(unreadable_records, old, new)
    monkeypatch.setitem(globals(), "UnreadableRecords", mutant.UnreadableRecords)
    with pytest.raises(AssertionError):  # noqa: PT012
        test_a_partition_has_no_problem_while_the_client_may_hold_its_records()
        test_a_partition_has_no_problem_after_a_time_without_polls()


def test_a_paused_partition_and_a_partition_at_the_end_of_its_log_have_no_problem() -> None:
    bridge = _Bridge()
    bridge.end = 4
    assert bridge.look(3 * STALLED_SECONDS) is None
    bridge.end, bridge.is_paused = 9, True
    assert bridge.look(3 * STALLED_SECONDS) is None


def test_a_problem_that_the_client_reported_is_kept() -> None:
    bridge = _Bridge()
    reported = PartitionProblem(ProblemKind.UNREADABLE_RECORD, "bad compression", 6)
    bridge.problems.note(PLACE, reported)
    assert bridge.look(3 * STALLED_SECONDS) == reported


def test_reading_continues_after_skipped_records() -> None:
    bridge = _Bridge()
    bridge.skipped = {PLACE: [SkippedRange(4, 7)], ("other", 3): [SkippedRange(0, 9)]}
    bridge.problems.note(PLACE, PartitionProblem(ProblemKind.UNREADABLE_RECORD, "bad compression", 4))
    assert bridge.look(0) is None
    assert bridge.sought == [(PLACE, 8)]
    assert bridge.inflight.partitions[PLACE].lowest_unapplied() == 8
    bridge.look(10 * LOOK_SECONDS)
    assert len(bridge.sought) == 1


def test_records_before_the_skipped_records_are_read_first() -> None:
    bridge = _Bridge()
    bridge.skipped = {PLACE: [SkippedRange(6, 7)]}
    assert bridge.look(LOOK_SECONDS) is None
    assert bridge.sought == []
    # Only the error of the client proves that offsets 4 and 5 hold no records.
    bridge.problems.note(PLACE, PartitionProblem(ProblemKind.UNREADABLE_RECORD, "bad compression", 6))
    bridge.look(LOOK_SECONDS)
    assert bridge.sought == [(PLACE, 8)]


def test_a_skipped_record_is_not_taken_even_if_it_can_be_read() -> None:
    bridge = _Bridge()
    bridge.skipped = {PLACE: [SkippedRange(5, 6)]}
    bridge.look(0)
    records = [record(offset) for offset in range(4, 9)]
    assert [one.offset for one in bridge.unreadable.without_skipped(PLACE, records)] == [4, 7, 8]
    assert bridge.unreadable.without_skipped(("t", 1), records) == records
