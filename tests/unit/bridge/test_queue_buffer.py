"""Tests when a bridge sends the records of a queue, and when the bridge sends records again."""

import itertools

import pytest

from sluice.bridge import queue_buffer
from sluice.bridge.lanes import MAX_PAUSE_SECONDS
from sluice.bridge.queue_buffer import (
    FULL_BYTES,
    FULL_RECORDS,
    LONG_SECONDS,
    MAX_BYTES,
    MAX_MESSAGES,
    SHORT_MESSAGES,
)
from sluice.bridge.queue_messages import STUCK_SECONDS, Resend
from sluice.bridge.queue_state import Waiting, Whereabouts
from tests.mutants import mutated
from tests.unit.bridge import bridging
from tests.unit.bridge.bridging import BUSY, EMPTY, NOWHERE, PLACE, Queue, assignment, claims, holding, record


@pytest.mark.parametrize(
    ("records", "age_seconds", "list_is_empty", "due"),
    [
        (0, 9.0, True, False),
        (1, 0.0, True, True),
        (1, 0.249, False, False),
        (1, 0.250, False, True),
        (FULL_RECORDS - 1, 0.0, False, False),
        (FULL_RECORDS, 0.0, False, True),
    ],
)
def test_a_queue_is_due_when_its_message_is_full_or_old_enough(
    records: int, age_seconds: float, list_is_empty: bool, due: bool
) -> None:
    queue = Queue()
    queue.add(0, range(records))
    assert queue.buffer.is_due(age_seconds, EMPTY if list_is_empty else BUSY) is due


def test_the_bytes_of_a_message_are_bounded_and_a_record_above_the_bound_is_sent_alone() -> None:
    queue = Queue()
    queue.add(0, range(3), value=b"x" * (FULL_BYTES // 2))
    assert queue.buffer.is_due(0.0, BUSY)
    assert claims(queue.send(0.0)) == [(0, -1, 0)]
    queue = Queue(lanes=2)
    queue.add(0, range(1))
    queue.add(0, range(1, 2), value=b"x" * (FULL_BYTES + 1))
    queue.add(0, range(2, 4))
    assert [claims(queue.send(0.0)) for _ in range(3)] == [[(0, -1, 0)], [(0, 0, 1)], [(0, 1, 3)]]


def test_messages_take_records_from_the_lanes_in_turn() -> None:
    queue = Queue(lanes=3)
    queue.add(0, range(FULL_RECORDS + 50))
    half = FULL_RECORDS // 2
    queue.add(1, range(half))
    queue.add(2, range(half))
    assert claims(queue.send(0.0)) == [(0, -1, FULL_RECORDS - 1)]
    assert claims(queue.send(0.0)) == [(1, -1, half - 1), (2, -1, half - 1)]
    assert claims(queue.send(0.0)) == [(0, FULL_RECORDS - 1, FULL_RECORDS + 49)]


def test_the_number_of_unapplied_messages_of_a_queue_is_bounded() -> None:
    queue = Queue()
    for n in range(MAX_MESSAGES):
        queue.add(0, range(n, n + 1))
        queue.send(0.0)
    queue.add(0, range(50, 51 + FULL_RECORDS))
    assert not queue.buffer.is_due(9.0, EMPTY)
    queue.apply(0, 0, 9.0)
    assert queue.buffer.unapplied_messages == MAX_MESSAGES - 1
    assert queue.buffer.is_due(9.0, EMPTY)


def test_only_the_overtaken_lanes_are_sent_again() -> None:
    queue = Queue(lanes=3)
    for lane in range(3):
        queue.add(lane, range(2))
    queue.send(0.0)  # message 1: all lanes
    queue.add(1, range(2, 4))
    queue.send(0.0)  # message 2: lane 1
    queue.add(2, range(2, 4))
    queue.send(0.0)  # message 3: lane 2
    # Message 1 was lost for lanes 1 and 2, so message 2 cannot be applied. Message 3 may still be waiting.
    assert queue.apply(0, 1, 0.1) == dict.fromkeys(queue.lanes[1:], Resend.OVERTAKEN)
    assert claims(queue.send(0.1)) == [(1, -1, 3), (2, -1, 3)]
    assert queue.buffer.unapplied_messages == 1


def test_a_lane_whose_message_is_lost_is_sent_again_with_growing_pauses() -> None:
    queue = Queue()
    queue.add(0, range(2))
    now, waits = 0.0, []
    for _ in range(8):
        queue.send(now)
        wait = 0.5
        while not queue.look(now + wait):
            wait += 0.5
        waits.append(wait)
        now += wait
        assert queue.buffer.is_due(now, BUSY)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    queue.send(now)
    queue.apply(0, 0, now)
    assert queue.look(now + 1) == {queue.lanes[0]: Resend.SILENT}


def test_a_lane_whose_message_is_on_the_list_is_not_sent_again() -> None:
    queue = Queue(lanes=2)
    queue.add(0, range(2))
    queue.send(0.0)
    queue.add(1, range(2))
    queue.send(0.0)
    for second in range(1, 1_000):
        assert not queue.look(second, Whereabouts(on_list=frozenset({"m0", "m1"})))
    # A worker took the message, but did not apply the message.
    found = Whereabouts(on_list=frozenset({"m1"}))
    assert queue.look(1_000, found) == {queue.lanes[0]: Resend.SILENT}


def test_a_message_is_lost_only_if_progress_was_read_between_two_searches() -> None:
    queue = Queue()
    queue.add(0, range(2))
    queue.send(0.0)
    assert queue.buffer.needs_search(1.0)
    assert not queue.buffer.resend_lost(1.0, NOWHERE)
    assert not queue.buffer.resend_lost(1.2, NOWHERE), "progress was not read between the searches"
    queue.buffer.note_settled()
    assert not queue.buffer.resend_lost(1.4, Whereabouts(on_list=frozenset({"m0"}))), (
        "the message was put back on the list"
    )
    assert not queue.buffer.resend_lost(2.4, NOWHERE)
    queue.buffer.note_settled()
    assert queue.buffer.resend_lost(2.6, NOWHERE) == {queue.lanes[0]: Resend.SILENT}


def test_a_lane_whose_message_a_worker_holds_is_sent_again_after_a_long_time() -> None:
    queue = Queue()
    queue.add(0, range(2))
    queue.send(0.0)
    # The time on the list does not count.
    assert not queue.look(100.0, Whereabouts(on_list=frozenset({"m0"})))
    in_hand = Whereabouts(in_hand=frozenset({"m0"}))
    for wait in range(int(STUCK_SECONDS)):
        assert not queue.look(200.0 + wait, in_hand)
    assert queue.look(200.0 + STUCK_SECONDS, in_hand) == {queue.lanes[0]: Resend.STUCK}
    queue.send(300.0)
    assert not queue.look(400.0, Whereabouts(in_hand=frozenset({"m0", "m1"})))


def test_records_that_are_sent_again_respect_the_bounds_of_the_list() -> None:
    queue = Queue()
    for n in range(MAX_MESSAGES):
        queue.add(0, range(n, n + 1))
        queue.send(0.0)
    queue.buffer.rewind_all()
    assert not queue.buffer.is_due(9.0, Waiting(2 * MAX_MESSAGES, 1))
    assert not queue.buffer.is_due(9.0, Waiting(1, 2 * MAX_BYTES))
    # The list is full of messages of other bridges, and contains no message of this bridge.
    assert queue.buffer.is_due(9.0, Waiting(2 * MAX_MESSAGES - 1, 1))
    assert claims(queue.send(9.0)) == [(0, -1, MAX_MESSAGES - 1)]
    queue.add(0, range(10, 11 + FULL_RECORDS))
    assert queue.buffer.is_due(9.0, Waiting(MAX_MESSAGES - 1, MAX_BYTES - 1))
    assert not queue.buffer.is_due(9.0, Waiting(MAX_MESSAGES, 1))
    assert not queue.buffer.is_due(9.0, Waiting(1, MAX_BYTES))


def test_on_a_long_list_small_messages_are_merged() -> None:
    queue = Queue()
    queue.add(0, range(4))
    queue.send(0.0)
    queue.add(0, range(4, 8), 0.0)
    assert queue.buffer.is_due(1.0, Waiting(SHORT_MESSAGES - 1, 1))
    assert not queue.buffer.is_due(1.0, Waiting(SHORT_MESSAGES, 1))
    queue.add(0, range(8, 8 + FULL_RECORDS), 1.0)
    assert queue.buffer.is_due(1.0, Waiting(SHORT_MESSAGES, 1))
    assert claims(queue.send(1.0)) == [(0, 3, 3 + FULL_RECORDS)]


def test_among_many_busy_queues_a_list_with_one_message_gets_no_small_one() -> None:
    queue = Queue()
    queue.add(0, range(4))
    queue.send(0.0)
    queue.add(0, range(4, 8), 0.0)
    assert queue.buffer.is_due(1.0, BUSY)
    assert not queue.buffer.is_due(1.0, BUSY, is_crowded=True)
    assert not queue.buffer.needs_list(1.0 + LONG_SECONDS / 2)
    assert queue.buffer.is_due(1.0, EMPTY, is_crowded=True)
    queue.add(0, range(8, 8 + FULL_RECORDS), 1.0)
    assert queue.buffer.is_due(1.0, BUSY, is_crowded=True), "a full message"
    other = Queue()
    other.add(0, range(4))
    assert other.buffer.is_due(1.0, BUSY, is_crowded=True), "the message on the list is of another bridge"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(1 if is_crowded else SHORT_MESSAGES)", "SHORT_MESSAGES"),
        ("not (is_long and unapplied)", "not is_long"),
    ],
)
def test_a_mutant_of_the_short_list_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    monkeypatch.setattr(bridging, "QueueBuffer", mutated(queue_buffer, old, new).QueueBuffer)
    with pytest.raises(AssertionError):
        test_among_many_busy_queues_a_list_with_one_message_gets_no_small_one()


def test_records_are_not_sent_while_the_length_of_the_list_is_unknown() -> None:
    queue = Queue()
    queue.add(0, range(2 * FULL_RECORDS))
    assert not queue.buffer.is_due(9.0, None)
    assert queue.buffer.needs_list(0.0), "a full message is due at once"
    assert not queue.buffer.is_due(0.0, Waiting(2 * MAX_MESSAGES, 1))
    assert not queue.buffer.needs_list(0.0 + LONG_SECONDS / 2), (
        "the length of a long list is not read in each turn"
    )
    assert queue.buffer.needs_list(0.0 + LONG_SECONDS)


def test_only_the_first_records_of_a_halted_queue_are_sent_every_five_seconds() -> None:
    queue = Queue()
    queue.add(0, range(3 * FULL_RECORDS))
    queue.send(0.0)
    queue.send(0.0)
    queue.buffer.halted = True
    assert not queue.buffer.resend_halted(4.9, EMPTY)
    assert not queue.buffer.is_due(4.9, EMPTY)
    # Behind other messages on the list, a worker would not try the records that are sent again.
    assert not queue.buffer.resend_halted(5.0, BUSY)
    assert queue.buffer.resend_halted(5.0, EMPTY) == {queue.lanes[0]: Resend.HALTED}
    assert queue.buffer.is_due(5.0, EMPTY)
    assert claims(queue.send(5.0)) == [(0, -1, FULL_RECORDS - 1)]
    assert not queue.buffer.is_due(9.9, EMPTY)


def test_after_redis_lost_its_data_all_records_are_sent_again() -> None:
    inflight = holding({PLACE: assignment()})
    inflight.take(PLACE, [record(n) for n in range(5)], 0.0)
    (queue,) = inflight.queues.values()
    queue.note_sent(queue.cut(), 0.0, "m0")
    assert inflight.rewind_all() == 1
    assert queue.is_due(0.0, BUSY)
    assert claims(queue.cut()) == [(0, -1, 4)]


def refuse(queue: Queue, now: float) -> float:
    """Sends lane 0 without progress until the lane is refused. Returns the time."""
    while not queue.lanes[0].is_refused:
        while queue.buffer.is_due(now, EMPTY):
            queue.send(now)
        now += 0.5
        queue.look(now)
    return now


def test_a_refused_lane_takes_no_room_from_the_other_lanes() -> None:
    queue = Queue(lanes=2)
    queue.add(0, range(10 * FULL_RECORDS))
    now = refuse(queue, 0.0)
    assert now == 3.0, "the lane is refused after waits of one and two seconds"
    assert claims(queue.send(now)) == [(0, -1, FULL_RECORDS - 1)]
    assert not queue.buffer.is_due(now + 9, EMPTY), "only one message is sent as a trial"
    queue.add(0, range(10 * FULL_RECORDS, 11 * FULL_RECORDS))
    for n in range(MAX_MESSAGES):
        queue.add(1, range(n, n + 1), now)
        assert queue.buffer.is_due(now + 1, EMPTY)
        assert claims(queue.send(now)) == [(1, n - 1, n)]
    queue.add(1, range(MAX_MESSAGES, MAX_MESSAGES + 1), now)
    assert not queue.buffer.is_due(now + 1, EMPTY)


def test_a_refused_lane_is_retried_with_growing_pauses() -> None:
    queue = Queue(lanes=2)
    queue.add(0, range(10 * FULL_RECORDS))
    now = refuse(queue, 0.0)
    sent_at: list[float] = []
    offset = 0
    while now < 60:
        queue.add(1, range(offset, offset + 1), now)
        while queue.buffer.is_due(now + 1, EMPTY):
            if 0 in [place for place, _, _ in claims(queue.send(now + 1))]:
                sent_at.append(now + 1)
        queue.apply(1, offset, now + 1)
        offset += 1
        now += 0.5
    pauses = [later - sooner for sooner, later in itertools.pairwise(sent_at)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE_SECONDS


def test_a_refused_lane_continues_as_soon_as_a_worker_applies_it() -> None:
    queue = Queue(lanes=2)
    queue.add(0, range(2 * FULL_RECORDS))
    now = refuse(queue, 0.0)
    queue.send(now)
    queue.apply(0, FULL_RECORDS - 1, now)
    assert not queue.lanes[0].is_refused
    assert claims(queue.send(now)) == [(0, FULL_RECORDS - 1, 2 * FULL_RECORDS - 1)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "sum(not all(lane.is_refused for lane in message.ends) for message in self._messages)",
            "len(self._messages)",
        ),
        ("if lane.unsent and not lane.is_refused:", "if lane.unsent:"),
        ("or self._is_on_trial(lane):", "or False:"),
        (
            "                self._ready.pop(lane, None)\n                self._paused",
            "                self._paused",
        ),
        ("elif lane not in self._ready:", "elif False:"),
    ],
)
def test_a_mutant_of_refused_lanes_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    mutant = mutated(queue_buffer, old, new)
    monkeypatch.setattr(bridging, "QueueBuffer", mutant.QueueBuffer)
    with pytest.raises((AssertionError, KeyError, IndexError)):  # noqa: PT012
        test_a_refused_lane_takes_no_room_from_the_other_lanes()
        test_a_refused_lane_is_retried_with_growing_pauses()
        test_a_refused_lane_continues_as_soon_as_a_worker_applies_it()
