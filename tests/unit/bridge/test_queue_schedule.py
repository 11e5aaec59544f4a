"""A queue gets its turn in time: no decision is later than in a loop that asks every queue in every turn."""

import copy
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.bridge import inflight, queue_buffer, queue_schedule
from sluice.bridge.inflight import Inflight
from sluice.bridge.queue_buffer import FULL_RECORDS, MAX_MESSAGES, QueueBuffer
from sluice.bridge.queue_pace import PATIENT_SECONDS
from sluice.bridge.queue_schedule import CROWD_QUEUES, QueueSchedule, crowd_seconds
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.bridge.send_loop import LIST_SECONDS
from sluice.kafka_io.record_types import Record
from tests.mutants import mutated
from tests.unit.bridge import bridging
from tests.unit.bridge.bridging import EMPTY, NOWHERE, PLACE, Queue, assignment, record

LANES = 3
PROBES = (0.0, 0.001, 0.01, 0.02, 0.03, 0.1, 0.25, 0.3, 1.0, 2.0, 5.0, 60.0)
"""Seconds after an operation at which the exhaustive check is compared."""

SEEDS = range(60)
LISTS = [EMPTY, Waiting(1, 1), Waiting(2, 1), Waiting(2 * MAX_MESSAGES, 1)]
NAMES = ["add", "add", "fill", "turn", "turn", "apply", "halt", "mend", "rewind", "hold"]
PAUSES = [0.0, 0.005, 0.02, 0.1, 0.5, 1.5, 6.0]


def needs_decision(buffer: QueueBuffer, now: float) -> bool:
    """The check of a loop that asks in every turn. It computes everything again, and changes nothing."""
    if any(until <= now for lane, until in buffer._paused.items() if lane.unsent):
        return True
    is_overdue = bool(buffer._overdue_lanes(now)) and now >= buffer._look_at
    return buffer.needs_list(now) or (is_overdue and not buffer.halted)


def act(queue: Queue, now: float, waiting: Waiting) -> None:
    """Does what the send loop does with a queue that is due."""
    buffer = queue.buffer
    asks, searches = buffer.needs_list(now), buffer.needs_search(now)
    if asks:
        buffer.note_list(waiting)
        buffer.resend_halted(now, waiting)
    if searches:
        buffer.resend_lost(now, NOWHERE if waiting.messages else Whereabouts(in_hand=frozenset({"m0"})))
    while asks and buffer.is_due(now, waiting):
        queue.send(now)
        waiting = Waiting(waiting.messages + 1, waiting.bytes + 1)
    if asks:
        buffer.note_asked(now, LIST_SECONDS)


def play(seed: int, check: Callable[[Queue, float], None]) -> None:
    """Carries out random operations on one queue, and calls `check` after each of them."""
    rng, queue, now, offset = Random(seed), Queue(lanes=LANES), 0.0, 0
    for _ in range(rng.randrange(30)):
        name, number, seconds = rng.choice(NAMES), rng.randrange(LANES), rng.choice(PAUSES)
        waiting = rng.choice(LISTS)
        now += seconds
        lane, buffer = queue.lanes[number], queue.buffer
        match name:
            case "add" | "fill":
                count = 1 if name == "add" else FULL_RECORDS
                queue.add(number, range(offset, offset + count), now)
                offset += count
            case "turn":
                act(queue, now, waiting)
                buffer.note_settled()
            case "apply" if lane.sent:
                queue.apply(number, lane.sent[len(lane.sent) // 2][0].offset, now)
                buffer.note_settled()
            case "halt" | "mend":
                buffer.halted = name == "halt"
            case "rewind":
                buffer.rewind(lane)
            case "hold" if lane in buffer._ready:
                buffer.hold_back(lane, now)
        check(queue, now)


def check_not_late(queue: Queue, now: float) -> None:
    due = queue.buffer.due_at()
    for seconds in PROBES:
        if needs_decision(queue.buffer, now + seconds):
            assert min(due) <= now + seconds, (
                f"{now}: the due time lies after the moment of the exhaustive check"
            )


def check_not_idle(queue: Queue, now: float) -> None:
    copied = copy.deepcopy(queue)
    for _ in range(12):
        due = min(copied.buffer.due_at())
        if due == float("inf"):
            return
        now = max(now, due)
        act(copied, now, Waiting(1, 1))
    assert min(copied.buffer.due_at()) > now, "the loop turns without waiting"


def test_the_due_time_never_lies_after_the_moment_of_the_exhaustive_check() -> None:
    for seed in SEEDS:
        play(seed, check_not_late)


def test_a_queue_that_was_asked_is_not_due_again_at_once() -> None:
    for seed in SEEDS:
        play(seed, check_not_idle)


def test_progress_of_a_lane_makes_its_next_search_due_sooner() -> None:
    queue = Queue()
    queue.add(0, range(FULL_RECORDS))
    queue.lanes[0].patience_seconds = 8.0
    queue.send(0.0)
    assert min(queue.buffer.due_at()) == 8.0
    queue.apply(0, 5, 3.0)
    assert min(queue.buffer.due_at()) == 4.0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("must = min(self._paused.values(), default=math.inf)", "must = math.inf"),
        (
            "            self._overdue_at = min(self._overdue_at, lane.overdue_at())\n            del",
            "            del",
        ),
        ("        if lane.sent:\n", "        if False:\n"),
        ("return Due(math.inf, math.inf, min(must, self._ask_at))", "return Due(math.inf, math.inf, must)"),
        ("return Due(eager, ", "return Due(math.inf, "),
        ("retry_at if self._ready or self._messages else math.inf", "math.inf"),
        ("must = min(must, max(self._look_at, self._overdue_at))", "pass"),
        ("self._ask_at = max(self._ask_at, now + pause_seconds)", "pass"),
    ],
)
def test_a_mutant_of_the_due_time_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    monkeypatch.setattr(bridging, "QueueBuffer", mutated(queue_buffer, old, new).QueueBuffer)
    with pytest.raises(AssertionError):  # noqa: PT012
        test_the_due_time_never_lies_after_the_moment_of_the_exhaustive_check()
        test_a_queue_that_was_asked_is_not_due_again_at_once()
        test_progress_of_a_lane_makes_its_next_search_due_sooner()


QUEUES = 4
STEPS = ["take", "take", "turn", "turn", "apply", "halt", "wipe", "forget"]


def send_due(held: Inflight, now: float) -> int:
    """Sends what is due, with all lists empty. Returns the number of messages."""
    sent = 0
    for buffer in held.schedule.take_due(now):
        if buffer.needs_list(now):
            while buffer.is_due(now, EMPTY):
                buffer.note_sent(buffer.cut(), now, "m")
                sent += 1
            buffer.note_asked(now, LIST_SECONDS)
        if buffer.needs_search(now):
            buffer.resend_lost(now, NOWHERE)
    return sent


def play_inflight(seed: int) -> None:
    """Carries out random steps. After each step, all queues that need a decision must be due."""
    rng, held, now, offset = Random(seed), Inflight(max_bytes=10**9, max_span=10**9), 0.0, 0
    held.start(PLACE, assignment(shards=QUEUES), 0)
    for _ in range(30):
        name, number, seconds = rng.choice(STEPS), rng.randrange(41), rng.choice(PAUSES)
        now += seconds
        match name:
            case "take":
                records = [Record(offset + n, 0, b"%d" % (number + n), b"v", []) for n in range(number)]
                held.take(PLACE, records, now)
                offset += number
            case "turn":
                send_due(held, now)
            case "apply" if PLACE in held.partitions:
                lanes = held.partitions[PLACE].lanes.items()
                applied = {
                    queue: lane.sent[-1][0].offset if lane.sent else lane.applied for queue, lane in lanes
                }
                held.settle({PLACE: replace(assignment(shards=QUEUES), applied=applied)}, now)
            case "halt":
                held.note_halted(frozenset([f"e.{number % QUEUES}"] if number % 2 else []))
            case "wipe":
                held.rewind_all()
            case "forget":
                held.forget(PLACE)
                held.start(PLACE, assignment(shards=QUEUES), offset)
        held.schedule.next_at()
        schedule = held.schedule
        times = [one for kind in (schedule._must, schedule._eager) for one in kind._at.items()]
        for later in PROBES:
            due = {queue for queue, at in times if at <= now + later}
            missed = {q for q, buffer in held.queues.items() if needs_decision(buffer, now + later)} - due
            assert not missed, f"seed {seed}: {missed} are not due {later} s after {name}"


def test_no_change_of_a_queue_is_missed() -> None:
    for seed in SEEDS:
        play_inflight(seed)


def test_an_applied_message_makes_room_for_the_next_one() -> None:
    held = Inflight(max_bytes=10**9, max_span=10**9)
    held.start(PLACE, assignment(), 0)
    held.take(PLACE, [record(n) for n in range((MAX_MESSAGES + 1) * FULL_RECORDS)], 0.0)
    assert send_due(held, 0.0) == MAX_MESSAGES
    assert send_due(held, 0.5) == 0
    held.settle({PLACE: assignment(e0=FULL_RECORDS - 1)}, 0.6)
    assert send_due(held, 0.6) == 1


def test_a_queue_that_is_no_longer_halted_is_due_at_once() -> None:
    held = Inflight(max_bytes=10**9, max_span=10**9)
    held.start(PLACE, assignment(), 0)
    held.take(PLACE, [record(0)], 0.0)
    assert send_due(held, 0.1) == 1
    held.take(PLACE, [record(1)], 0.1)
    held.note_halted(frozenset({"e.0"}))
    assert send_due(held, 0.2) == 0
    held.note_halted(frozenset())
    assert send_due(held, 0.3) == 1


def test_after_redis_lost_its_data_all_queues_are_due_at_once() -> None:
    held = Inflight(max_bytes=10**9, max_span=10**9)
    held.start(PLACE, assignment(), 0)
    held.take(PLACE, [record(0)], 0.0)
    assert send_due(held, 0.1) == 1
    held.schedule.next_at()
    held.rewind_all()
    assert send_due(held, 0.2) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        self.schedule.touch(buffer)\n", ""),
        (
            "                    moved[queue] = buffer = self._buffer(queue)",
            "                    moved[queue] = buffer = self.queues[queue]",
        ),
        ("self._buffer(name).halted = name in halted", "self.queues[name].halted = name in halted"),
        (
            "sum(self._buffer(name).rewind_all() for name in self.queues)",
            "sum(one.rewind_all() for one in self.queues.values())",
        ),
    ],
)
def test_a_mutant_that_misses_a_change_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    monkeypatch.setitem(globals(), "Inflight", mutated(inflight, old, new).Inflight)
    with pytest.raises(AssertionError):  # noqa: PT012
        test_no_change_of_a_queue_is_missed()
        test_an_applied_message_makes_room_for_the_next_one()
        test_a_queue_that_is_no_longer_halted_is_due_at_once()
        test_after_redis_lost_its_data_all_queues_are_due_at_once()


def crowd(queues: int) -> QueueSchedule:
    """A schedule in which this number of queues have a message in flight."""
    schedule = QueueSchedule()
    for number in range(queues):
        queue = Queue()
        queue.buffer.name = f"e.{number}"
        queue.add(0, range(1))
        queue.send(0.0)
        schedule.touch(queue.buffer)
    return schedule


def test_a_small_message_waits_only_while_many_queues_have_messages_in_flight() -> None:
    waits = {CROWD_QUEUES - 1: 0.0, CROWD_QUEUES: PATIENT_SECONDS, 2 * CROWD_QUEUES: 2 * PATIENT_SECONDS}
    for queues, wait_seconds in waits.items():
        schedule, queue = crowd(queues), Queue()
        queue.buffer.name = "e.new"
        queue.add(0, range(1), 0.25)
        schedule.touch(queue.buffer)
        assert schedule.next_at() == 0.25 + wait_seconds
        assert schedule.take_due(0.249 + wait_seconds) == []
        assert schedule.take_due(0.25 + wait_seconds) == [queue.buffer]


def test_a_full_message_and_records_that_are_sent_again_never_wait_for_other_queues() -> None:
    schedule, full, again = crowd(2 * CROWD_QUEUES), Queue(), Queue()
    full.buffer.name = "e.full"
    full.add(0, range(FULL_RECORDS), 0.5)
    again.buffer.name = "e.again"
    again.add(0, range(1))
    again.send(0.0)
    again.buffer.rewind_all()
    for queue in (full, again):
        schedule.touch(queue.buffer)
    assert schedule.take_due(0.5) == [full.buffer, again.buffer]


def test_only_as_many_small_messages_are_due_as_workers_may_need() -> None:
    schedule = crowd(CROWD_QUEUES - 2)
    for number in range(5):
        queue = Queue()
        queue.buffer.name = f"new.{number}"
        queue.add(0, range(1), number / 1_000)
        schedule.touch(queue.buffer)
    assert [queue.name for queue in schedule.take_due(0.1)] == ["new.0", "new.1"], "the oldest first"


def test_halted_queues_do_not_make_others_wait() -> None:
    schedule, queue = crowd(2 * CROWD_QUEUES), Queue()
    for halted in schedule._touched.values():
        halted.halted = True
    queue.add(0, range(1), 0.5)
    schedule.touch(queue.buffer)
    assert schedule.next_at() == 0.5


def test_the_crowd_grows_with_the_age_of_the_records() -> None:
    queues, schedule = 8 * CROWD_QUEUES, QueueSchedule()
    for number in range(queues):
        queue = Queue()
        queue.buffer.name = f"e.{number}"
        queue.add(0, range(1), 0.0)
        schedule.touch(queue.buffer)
    assert len(schedule.take_due(0.0)) == CROWD_QUEUES
    sent = [len(schedule.take_due(factor * PATIENT_SECONDS)) for factor in (1, 2, 4, 16)]
    assert sent == sorted(sent)
    assert sent[0] <= CROWD_QUEUES + 1
    assert sent[-1] == queues


@given(st.integers(0, 10**6))
def test_a_small_message_waits_at_most_four_seconds(in_flight: int) -> None:
    assert 0 <= crowd_seconds(in_flight) <= crowd_seconds(in_flight + 1) < 4.0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("min(must_at, self._eager.first_at()) if self._room() > 0 else must_at", "must_at"),
        ("+ crowd_seconds(len(self._crowd))", ""),
        ("if queue.unapplied_messages and not queue.halted:", "if queue.unapplied_messages:"),
        ("crowd_seconds(len(self._crowd) + len(names))", "0.0"),
        ("self._eager.take_due(now, limit=self._room())", "self._eager.take_due(now)"),
        ("if queue.unapplied_messages and not queue.halted:", "if False:"),
        ("self._must.take_due(now) + ", ""),
    ],
)
def test_a_mutant_of_the_schedule_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    monkeypatch.setitem(globals(), "QueueSchedule", mutated(queue_schedule, old, new).QueueSchedule)
    with pytest.raises(AssertionError):  # noqa: PT012
        test_a_small_message_waits_only_while_many_queues_have_messages_in_flight()
        test_a_full_message_and_records_that_are_sent_again_never_wait_for_other_queues()
        test_only_as_many_small_messages_are_due_as_workers_may_need()
        test_halted_queues_do_not_make_others_wait()
        test_the_crowd_grows_with_the_age_of_the_records()
