"""Partitions that stand at a record which cannot be read: noted with the offset, and passed once skipped."""

from typing import Any, cast

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
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange

PLACE: Place = ("t", 0)


class World:
    """A consumer, a store, and a bridge that reads one partition from offset 4 on."""

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
        """Lets so much time pass. Returns the problem of the partition."""
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


def test_a_position_is_doubted_when_it_has_stood_and_then_again() -> None:
    watch = PositionWatch()
    assert watch.note({PLACE: 4}, 0) == (set(), set())
    assert watch.note({PLACE: 4}, STALLED_SECONDS - 1) == (set(), set())
    assert watch.note({PLACE: 4}, STALLED_SECONDS) == (set(), {PLACE})
    assert watch.note({PLACE: 4}, STALLED_SECONDS + 1) == (set(), set())
    assert watch.note({PLACE: 4}, 2 * STALLED_SECONDS) == (set(), {PLACE})
    assert watch.note({PLACE: 5}, 3 * STALLED_SECONDS) == ({PLACE}, set())
    assert watch.note({}, 4 * STALLED_SECONDS) == ({PLACE}, set())


def test_a_partition_that_stands_before_the_end_of_its_log_has_a_record_that_cannot_be_read() -> None:
    world = World()
    assert world.look(STALLED_SECONDS - 2 * LOOK_SECONDS) is None
    found = world.look(STALLED_SECONDS)
    assert found is not None
    assert (found.kind, found.offset) == (ProblemKind.UNREADABLE_RECORD, 4)
    assert "sluice skip t:0:4" in found.detail
    world.inflight.take(PLACE, [record(4)], world.now)
    assert world.look(LOOK_SECONDS) is None


def test_a_partition_at_the_end_of_its_log_or_paused_is_not_suspected() -> None:
    world = World()
    world.end = 4
    assert world.look(3 * STALLED_SECONDS) is None
    world.end, world.is_paused = 9, True
    assert world.look(3 * STALLED_SECONDS) is None


def test_what_the_client_reported_is_kept() -> None:
    world = World()
    reported = PartitionProblem(ProblemKind.UNREADABLE_RECORD, "bad compression", 6)
    world.problems.note(PLACE, reported)
    assert world.look(3 * STALLED_SECONDS) == reported


def test_reading_goes_on_behind_skipped_records() -> None:
    world = World()
    world.skipped = {PLACE: [SkippedRange(4, 7)], ("other", 3): [SkippedRange(0, 9)]}
    world.problems.note(PLACE, PartitionProblem(ProblemKind.UNREADABLE_RECORD, "bad compression", 4))
    assert world.look(0) is None
    assert world.sought == [(PLACE, 8)]
    assert world.inflight.partitions[PLACE].lowest_unapplied() == 8
    world.look(10 * LOOK_SECONDS)
    assert len(world.sought) == 1


def test_records_before_the_skipped_ones_are_read_first() -> None:
    world = World()
    world.skipped = {PLACE: [SkippedRange(6, 7)]}
    assert world.look(LOOK_SECONDS) is None
    assert world.sought == []
    # Only the client's word says that offsets 4 and 5 hold no records.
    world.problems.note(PLACE, PartitionProblem(ProblemKind.UNREADABLE_RECORD, "bad compression", 6))
    world.look(LOOK_SECONDS)
    assert world.sought == [(PLACE, 8)]


def test_a_record_that_was_skipped_is_not_taken_if_it_can_be_read_after_all() -> None:
    world = World()
    world.skipped = {PLACE: [SkippedRange(5, 6)]}
    world.look(0)
    records = [record(offset) for offset in range(4, 9)]
    assert [one.offset for one in world.unreadable.without_skipped(PLACE, records)] == [4, 7, 8]
    assert world.unreadable.without_skipped(("t", 1), records) == records
