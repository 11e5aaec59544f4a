"""Lanes, the gate, sending again and the memory bounds, each rule by its own case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.assignment import LogRange, LoudStop, NeedsRows, Start, judge_assignment
from bridge.dispatch import FULL_BYTES, FULL_RECORDS, MAX_MESSAGES, Batch, QueueBuffer, Resend
from bridge.holdings import Holdings
from bridge.lanes import Lane, Origin, size_bytes
from bridge.partitioner import expected_partition
from bridge.partitioner_check import SUSPICIOUS_SAMPLES, PartitionerCheck
from db.progress import Assignment, Place
from tasks.backoff import Backoff
from tasks.routing import shard_of
from tasks.wire import Record

PLACE: Place = ("t", 0)
ORIGIN = Origin("t", "id", 0, 1)


def record(offset: int, value: bytes = b"v", key: bytes = b"k") -> Record:
    return Record(offset, 0, key, value, [])


def assignment(watermark: int = 0, epoch: int = 1, shards: int = 1, **applied: int) -> Assignment:
    lanes = {f"e.{name[1:]}": offset for name, offset in applied.items()}
    return Assignment("id", "e", epoch, shards, epoch, watermark, lanes)


class Queue:
    """One queue with lanes of several partitions, driven by hand."""

    def __init__(self, lanes: int = 1) -> None:
        self.buffer = QueueBuffer("e.0")
        self.lanes = [Lane(Origin("t", "id", n, 1), -1) for n in range(lanes)]

    def add(self, lane: int, offsets: range, now: float = 0.0, value: bytes = b"v") -> None:
        self.lanes[lane].add([record(offset, value) for offset in offsets])
        self.buffer.note_added(self.lanes[lane], now)

    def send(self, now: float) -> Batch:
        batch = self.buffer.cut()
        self.buffer.note_sent(batch, now)
        return batch

    def apply(self, lane: int, offset: int, now: float) -> dict[Lane, Resend]:
        self.lanes[lane].advance(offset, now)
        self.buffer.note_applied(self.lanes[lane])
        return self.buffer.resend_overtaken(now)


def claims(batch: Batch) -> list[tuple[int, int, int]]:
    return [(part.partition, part.prev, part.last) for part in batch.slices]


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.sampled_from(["add", "send", "apply", "rewind"]), max_size=40),
)
def test_slices_always_chain_from_what_is_applied_to_what_is_held(gaps: list[int], steps: list[str]) -> None:
    """Whatever happened before: sent and unsent together are the lane's unapplied records, in order."""
    lane, log, offset = Lane(ORIGIN, -1), list[int](), 0
    for number, step in enumerate(steps):
        if step == "add":
            offset += 1 + (gaps[number % len(gaps)] if gaps else 0)
            log.append(offset)
            lane.add([record(offset)])
        elif step == "send" and lane.unsent:
            records, used = lane.head(2, FULL_BYTES)
            part = lane.slice_of(records)
            assert [o for o in log if part.prev < o <= part.last] == [r.offset for r in part.records]
            lane.note_sent(len(records), used, 0.0)
        elif step == "apply" and lane.sent:
            lane.advance(lane.sent[0].offset, 0.0)
        elif step == "rewind":
            lane.rewind()
        assert [r.offset for r in lane.held()] == [o for o in log if o > lane.applied]
        assert lane.unsent_bytes == sum(size_bytes(r) for r in lane.unsent)


def test_sizes_are_those_of_the_wire() -> None:
    for r in [Record(1, 0, None, None, []), Record(1, 0, b"k", b"value", [("a", b"b"), ("c", None)])]:
        assert size_bytes(r) == r.size_bytes()


def test_a_lane_that_another_bridge_advanced_goes_on_behind_it() -> None:
    lane = Lane(ORIGIN, 5)
    lane.add([record(n) for n in (4, 5, 6, 9)])
    lane.advance(6, 0.0)
    assert lane.slice_of([record(9)]).prev == 6
    lane.add([record(10)])
    assert [r.offset for r in lane.held()] == [9, 10]


@pytest.mark.parametrize(
    ("records", "age_seconds", "list_is_empty", "due"),
    [
        (0, 9.0, True, False),
        (1, 0.009, True, False),
        (1, 0.010, True, True),
        (1, 0.249, False, False),
        (1, 0.250, False, True),
        (FULL_RECORDS - 1, 0.0, True, False),
        (FULL_RECORDS, 0.0, False, True),
    ],
)
def test_the_gate(records: int, age_seconds: float, list_is_empty: bool, due: bool) -> None:
    queue = Queue()
    queue.add(0, range(records))
    assert queue.buffer.is_due(age_seconds, list_is_empty=list_is_empty) is due


def test_bytes_fill_a_message_too_and_a_larger_record_goes_alone() -> None:
    queue = Queue()
    queue.add(0, range(3), value=b"x" * (FULL_BYTES // 2))
    assert queue.buffer.is_due(0.0, list_is_empty=False)
    assert claims(queue.send(0.0)) == [(0, -1, 0)]
    queue = Queue(lanes=2)
    queue.add(0, range(1))
    queue.add(0, range(1, 2), value=b"x" * (FULL_BYTES + 1))
    queue.add(0, range(2, 4))
    assert [claims(queue.send(0.0)) for _ in range(3)] == [[(0, -1, 0)], [(0, 0, 1)], [(0, 1, 3)]]


def test_a_message_takes_the_lanes_in_turns() -> None:
    queue = Queue(lanes=3)
    queue.add(0, range(FULL_RECORDS + 50))
    queue.add(1, range(100))
    queue.add(2, range(100))
    assert claims(queue.send(0.0)) == [(0, -1, FULL_RECORDS - 1)]
    assert claims(queue.send(0.0)) == [(1, -1, 99), (2, -1, 99)]
    assert claims(queue.send(0.0)) == [(0, FULL_RECORDS - 1, FULL_RECORDS + 49)]


def test_few_messages_of_a_queue_are_unapplied() -> None:
    queue = Queue()
    for n in range(MAX_MESSAGES):
        queue.add(0, range(n, n + 1))
        queue.send(0.0)
    queue.add(0, range(50, 51 + FULL_RECORDS))
    assert not queue.buffer.is_due(9.0, list_is_empty=True)
    queue.apply(0, 0, 9.0)
    assert queue.buffer.unapplied_messages == MAX_MESSAGES - 1
    assert queue.buffer.is_due(9.0, list_is_empty=True)


def test_an_overtaken_lane_is_sent_again_and_no_other() -> None:
    queue = Queue(lanes=3)
    for lane in range(3):
        queue.add(lane, range(2))
    queue.send(0.0)  # message 1: all lanes
    queue.add(1, range(2, 4))
    queue.send(0.0)  # message 2: lane 1
    queue.add(2, range(2, 4))
    queue.send(0.0)  # message 3: lane 2
    # Message 1 was lost for lane 1 and 2; message 2 was a gap; nothing is known of message 3.
    assert queue.apply(0, 1, 0.1) == dict.fromkeys(queue.lanes[1:], Resend.OVERTAKEN)
    assert claims(queue.send(0.1)) == [(1, -1, 3), (2, -1, 3)]
    assert queue.buffer.unapplied_messages == 1


def test_a_silent_lane_is_sent_again_with_growing_patience() -> None:
    queue = Queue()
    queue.add(0, range(2))
    now, waits = 0.0, []
    for _ in range(8):
        queue.send(now)
        assert not queue.buffer.resend_still(now + 59.9, list_is_empty=False)
        wait = 0.5
        while not queue.buffer.resend_still(now + wait, list_is_empty=True):
            wait += 0.5
        waits.append(wait)
        now += wait
        assert queue.buffer.is_due(now, list_is_empty=False)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    queue.send(now)
    queue.apply(0, 0, now)
    assert queue.buffer.resend_still(now + 1, list_is_empty=True) == {queue.lanes[0]: Resend.SILENT}


def test_a_stuck_lane_is_sent_again_although_the_list_is_never_empty() -> None:
    queue = Queue(lanes=2)
    queue.add(0, range(2))
    queue.add(1, range(2))
    queue.send(0.0)
    assert not queue.buffer.resend_still(31.0, list_is_empty=False)
    # An earlier message of another bridge advanced the other lane, not as far as ours.
    queue.apply(1, 0, 31.0)
    assert queue.buffer.resend_still(31.0, list_is_empty=False) == {queue.lanes[0]: Resend.STUCK}


def test_of_a_halted_queue_only_the_head_is_sent_every_five_seconds() -> None:
    queue = Queue()
    queue.add(0, range(3 * FULL_RECORDS))
    queue.send(0.0)
    queue.send(0.0)
    queue.buffer.halted = True
    assert not queue.buffer.resend_still(4.9, list_is_empty=True)
    assert not queue.buffer.is_due(4.9, list_is_empty=True)
    # While its list is not empty nobody would try the head anyway.
    assert not queue.buffer.resend_still(5.0, list_is_empty=False)
    assert queue.buffer.resend_still(5.0, list_is_empty=True) == {queue.lanes[0]: Resend.HALTED}
    assert queue.buffer.is_due(5.0, list_is_empty=True)
    assert claims(queue.send(5.0)) == [(0, -1, FULL_RECORDS - 1)]
    assert not queue.buffer.is_due(9.9, list_is_empty=True)


def test_a_wiped_redis_makes_everything_unsent() -> None:
    holdings = _holding({PLACE: assignment()})
    holdings.take(PLACE, [record(n) for n in range(5)], 0.0)
    (queue,) = holdings.queues.values()
    queue.note_sent(queue.cut(), 0.0)
    assert holdings.rewind_all() == 1
    assert queue.is_due(0.0, list_is_empty=False)
    assert claims(queue.cut()) == [(0, -1, 4)]


def _holding(assignments: dict[Place, Assignment], max_bytes: int = 10**9, max_span: int = 10**9) -> Holdings:
    holdings = Holdings(max_bytes=max_bytes, max_span=max_span)
    for place, given_assignment in assignments.items():
        holdings.start(place, given_assignment, given_assignment.watermark or 0)
    return holdings


def test_records_at_or_below_the_applied_offset_are_passed_over() -> None:
    holdings = _holding({PLACE: assignment(watermark=3, e0=5)})
    holdings.take(PLACE, [record(n) for n in range(3, 8)], 0.0)
    assert claims(holdings.queues["e.0"].cut()) == [(0, 5, 7)]


def test_records_of_a_partition_that_is_not_started_are_thrown_away() -> None:
    holdings = _holding({})
    holdings.take(PLACE, [record(7)], 0.0)
    assert not holdings.queues
    holdings.start(PLACE, assignment(), 0)
    holdings.take(PLACE, [record(7)], 0.0)
    holdings.forget(PLACE)
    assert not holdings.queues["e.0"].is_due(9.0, list_is_empty=True)


def test_the_watermark_is_the_lowest_unapplied_offset_or_the_position() -> None:
    holdings = _holding({PLACE: assignment(shards=2)})
    keys = {shard: key for key in (b"%d" % n for n in range(20)) for shard in [shard_of(key, 2)]}
    holdings.take(PLACE, [record(0, key=keys[0]), record(2, key=keys[1]), record(4, key=keys[0])], 0.0)
    assert holdings.watermarks() == {}
    for applied, watermark in [({"e0": 0}, 2), ({"e0": 4}, 2), ({"e0": 4, "e1": 2}, 5)]:
        holdings.settle({PLACE: assignment(shards=2, **applied)}, 0.0)
        assert holdings.watermarks() == {PLACE: (1, watermark)}
    holdings.note_position(PLACE, 9)
    holdings.note_position(PLACE, 7)
    assert holdings.watermarks() == {PLACE: (1, 9)}
    assert holdings.partitions[PLACE].held_bytes == 0


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (None, "its rows are gone"),
        (assignment(watermark=4, e0=6), "a lane fell"),
        (assignment(watermark=4), "a lane fell"),
        (assignment(watermark=3, e0=7), "the watermark fell"),
        (assignment(watermark=4, epoch=2), "its entity type was re-routed"),
        (assignment(watermark=4, shards=2, e0=7), "its entity type was re-routed"),
        (Assignment("id-2", "e", 1, 1, 1, 4, {"e.0": 7}), "the topic has another id"),
        (assignment(watermark=4, e0=7), None),
        (assignment(watermark=5, e0=8, e1=1), None),
    ],
)
def test_a_partition_whose_state_in_postgres_was_moved_is_lost(
    read: Assignment | None, reason: str | None
) -> None:
    holdings = _holding({PLACE: assignment(watermark=4, e0=7)})
    lost, _ = holdings.settle({} if read is None else {PLACE: read}, 0.0)
    assert lost == ({PLACE: reason} if reason else {})


@pytest.mark.parametrize(
    ("log", "read", "verdict"),
    [
        (LogRange(0, 10), None, NeedsRows),
        (LogRange(0, 10), Assignment("id", "e", 1, 1, None, None), NeedsRows),
        (LogRange(0, 10), assignment(watermark=4, e0=7), Start),
        (LogRange(4, 8), assignment(watermark=4, e0=7), Start),
        (LogRange(4, 4), assignment(watermark=4), Start),
        (LogRange(5, 10), assignment(watermark=4), LoudStop),
        (LogRange(0, 3), assignment(watermark=4), LoudStop),
        (LogRange(0, 7), assignment(watermark=4, e0=7), LoudStop),
        (LogRange(0, 10), Assignment("id-2", "e", 1, 1, 1, 4), LoudStop),
        (LogRange(0, 10), Assignment("id-2", "e", 1, 1, None, None), LoudStop),
        (LogRange(0, 10), Assignment("id", "e", 2, 1, 1, 4), LoudStop),
    ],
)
def test_assignments_are_judged(log: LogRange, read: Assignment | None, verdict: type) -> None:
    found = judge_assignment("t", 0, read, topic_id="id", log=log)
    assert type(found) is verdict
    if isinstance(found, LoudStop):
        assert found.message.startswith(("Topic t ", "t[0]"))


@pytest.mark.parametrize("bound", ["bytes", "span"])
def test_a_partition_over_its_share_is_paused_and_resumes_at_half(bound: str) -> None:
    places: list[Place] = [("t", 0), ("t", 1)]
    limit = 2 * 100 * (size_bytes(record(0)) if bound == "bytes" else 1)
    holdings = _holding(
        {place: assignment() for place in places},
        **({"max_bytes": limit} if bound == "bytes" else {"max_span": limit}),
    )

    def over(paused: set[Place]) -> set[Place]:
        return set(holdings.over_bounds(frozenset(paused)))

    holdings.take(places[0], [record(n) for n in range(100)], 0.0)
    assert over(set()) == set()
    holdings.take(places[0], [record(100)], 0.0)
    assert over(set()) == {places[0]}
    for applied, paused in [(49, {places[0]}), (50, set())]:
        holdings.settle({place: assignment() for place in places} | {places[0]: assignment(e0=applied)}, 0.0)
        assert over({places[0]}) == paused
    # A rebalance gives this one the whole budget.
    holdings.take(places[0], [record(n) for n in range(101, 200)], 0.0)
    assert over(set()) == {places[0]}
    holdings.forget(places[1])
    assert over(set()) == set()


def test_halts_are_reported_once() -> None:
    holdings = _holding({PLACE: assignment()})
    holdings.take(PLACE, [record(0)], 0.0)
    halted = frozenset({"e.0", "another.0"})
    assert holdings.note_halted(halted) == (["e.0"], [])
    assert holdings.note_halted(halted) == ([], [])
    assert holdings.note_halted(frozenset()) == ([], ["e.0"])


def test_backoff_doubles_to_a_bound_and_forgets() -> None:
    backoff, now, waits = Backoff(), 100.0, []
    for _ in range(7):
        backoff.note_failure(now)
        assert not backoff.allows(now)
        waits.append(next(n / 10 for n in range(100) if backoff.allows(now + n / 10 + 1e-9)))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff.note_success()
    assert not backoff.note_success()
    assert backoff.note_failure(now)


def test_a_foreign_partitioner_is_reported_once_per_topic() -> None:
    check, key = PartitionerCheck(), b"key"
    right = expected_partition(key, 4)
    assert not any(check.sample(("t", right), record(n, key=key), 4) for n in range(100))
    wrong = [check.sample(("t", (right + 1) % 4), record(n, key=key), 4) for n in range(100)]
    assert [n for n, said in enumerate(wrong) if said] == [SUSPICIOUS_SAMPLES - 1]
