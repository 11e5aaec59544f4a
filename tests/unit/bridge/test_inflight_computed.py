"""What a bridge keeps about its partitions equals what an exhaustive computation finds."""

from dataclasses import replace
from random import Random

import pytest

from sluice.bridge import inflight
from sluice.bridge.inflight import Inflight, Partition
from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from tests.mutants import mutated
from tests.unit.bridge.bridging import PLACE, assignment, holding, record

PLACES: list[Place] = [PLACE, ("t", 1)]
QUEUES = 3
MAX_BYTES, MAX_SPAN = 40_000, 60
SEEDS = range(60)
NAMES = ["take", "take", "apply", "apply", "position", "rewind", "restart"]


def lowest(partition: Partition) -> int:
    offsets = [offset for lane in partition.lanes.values() if (offset := lane.first_unapplied()) is not None]
    return min(offsets, default=partition.position)


def over(held: Inflight, paused: frozenset[Place]) -> set[Place]:
    share = len(held.partitions)
    return {
        place
        for place, one in held.partitions.items()
        for factor in [share * (2 if place in paused else 1)]
        if one.held_bytes * factor > MAX_BYTES or (one.position - lowest(one)) * factor > MAX_SPAN
    }


def test_watermarks_and_pauses_equal_an_exhaustive_computation() -> None:
    for seed in SEEDS:
        play(Random(seed))


def play(rng: Random) -> None:
    held = inflight.Inflight(max_bytes=MAX_BYTES, max_span=MAX_SPAN)
    applied: dict[Place, dict[str, int]] = {place: {} for place in PLACES}
    stored = dict.fromkeys(PLACES, 0)
    for place in PLACES:
        held.start(place, assignment(shards=QUEUES), 0)
    paused: frozenset[Place] = frozenset()
    for _ in range(40):
        name, place, number = rng.choice(NAMES), rng.choice(PLACES), rng.randrange(31)
        partition = held.partitions[place]
        at = partition.position
        match name:
            case "take":
                held.take(place, [Record(at + 2 * n, 0, b"%d" % n, b"v", []) for n in range(number)], 0.0)
            case "apply" if partition.lanes:
                queue, lane = sorted(partition.lanes.items())[number % len(partition.lanes)]
                offsets = [one.offset for one in lane.held()]
                applied[place][queue] = offsets[number % len(offsets)] if offsets else lane.applied
                now = read({queue: applied[place][queue]}, stored[place])
                assert not held.settle({place: now}, 0.0, ([place], {queue}))[0]
            case "position":
                held.note_position(place, at + number)
            case "rewind":
                held.rewind_all()
            case "restart":
                stored[place] = lowest(partition)
                held.start(place, read(applied[place], stored[place]), stored[place])
        for one in held.partitions.values():
            assert one.lowest_unapplied() == lowest(one)
        paused = held.over_bounds(paused)
        assert paused == over(held, paused)
        raised = {p: (1, lowest(one)) for p, one in held.partitions.items() if lowest(one) > one.watermark}
        assert held.watermarks() == raised


def read(applied: dict[str, int], watermark: int) -> Assignment:
    return replace(assignment(watermark, shards=QUEUES), applied=dict(applied))


def test_lanes_that_were_not_read_do_not_count_as_lost() -> None:
    held = holding({PLACE: assignment(shards=QUEUES, e0=5, e1=7)})
    held.take(PLACE, [record(n, key=b"%d" % n) for n in range(8, 20)], 0.0)
    asked = ([PLACE], {"e.0"})
    assert held.settle({PLACE: assignment(shards=QUEUES, e0=5)}, 0.0, asked)[0] == {}
    assert held.settle({PLACE: assignment(shards=QUEUES, e0=4)}, 0.0, asked)[0].keys() == {PLACE}
    assert held.settle({PLACE: assignment(shards=QUEUES, e0=5)}, 0.0)[0].keys() == {PLACE}


def test_the_lanes_of_messages_in_flight_are_read() -> None:
    held = holding({PLACE: assignment(), ("t", 1): assignment()})
    held.take(PLACE, [record(0)], 0.0)
    held.schedule.next_at()
    assert held.asked() == ([PLACE], frozenset())
    queue = held.queues["e.0"]
    queue.note_sent(queue.cut(), 0.0, "m")
    held.schedule.touch(queue)
    held.schedule.next_at()
    assert held.is_busy
    assert held.asked() == ([PLACE], {"e.0"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        if lane is self._lowest:\n            self._lowest = None\n", ""),
        ("            self._holding.pop(lane, None)\n", "            pass\n"),
        ("            self._holding[lane] = None\n", "            pass\n"),
        ("            if not partition.held_bytes:\n", "            if True:\n"),
        (
            "        self._holding[place] = self.moved[place] = partition\n",
            "        self.moved[place] = partition\n",
        ),
        (
            "            partition.position = position\n            self.moved",
            "            partition.position = position\n            {}",
        ),
        ("                    self.moved[place] = partition\n", ""),
        ("self.lanes.keys() & set(queues)", "self.lanes"),
    ],
)
def test_a_mutant_of_the_computation_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    monkeypatch.setattr(inflight, "Inflight", mutated(inflight, old, new).Inflight)
    with pytest.raises(AssertionError):
        test_watermarks_and_pauses_equal_an_exhaustive_computation()
