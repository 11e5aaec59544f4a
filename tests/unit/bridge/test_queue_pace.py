"""The time between small messages grows while the worker of a queue is busy, and shrinks afterwards."""

from types import ModuleType

import pytest

from sluice.bridge import queue_buffer, queue_pace
from sluice.bridge.queue_buffer import FULL_RECORDS
from sluice.bridge.queue_pace import PACE_SECONDS, PATIENT_SECONDS, QueuePace
from sluice.bridge.queue_state import Waiting
from tests.mutants import mutated
from tests.unit.bridge import bridging
from tests.unit.bridge.bridging import BUSY, EMPTY, Queue


def test_a_list_that_is_not_empty_doubles_the_time_up_to_the_patience() -> None:
    pace = QueuePace()
    pace.note_list(1)
    assert pace.seconds == 2 * PACE_SECONDS
    for _ in range(20):
        pace.note_list(3)
    assert pace.seconds == PATIENT_SECONDS


def test_with_empty_lists_the_time_shrinks_slowly_to_the_shortest_one() -> None:
    pace = QueuePace()
    pace.note_list(1)
    pace.note_list(0)
    assert PACE_SECONDS < pace.seconds < 2 * PACE_SECONDS
    for _ in range(200):
        pace.note_list(0)
    assert pace.seconds == PACE_SECONDS


def time_between_messages(waiting: Waiting, records: int) -> float:
    """The time from one small message to the next one, after the list was read with `records` unsent."""
    queue = Queue()
    queue.add(0, range(1))
    queue.send(1.0)
    queue.add(0, range(1, 1 + records), 1.0)
    queue.buffer.note_list(waiting)
    if records > 1:
        queue.send(1.0)
        queue.add(0, range(records + 1, records + 2), 1.0)
    eager_at = queue.buffer.due_at().eager
    assert queue.buffer.needs_list(eager_at)
    assert not queue.buffer.needs_list(eager_at - 0.001)
    return eager_at - 1.0


def test_small_messages_of_a_busy_queue_have_more_time_between_them() -> None:
    assert time_between_messages(EMPTY, 1) == pytest.approx(PACE_SECONDS)
    assert time_between_messages(BUSY, 1) == pytest.approx(2 * PACE_SECONDS)


def test_a_full_message_does_not_change_the_time() -> None:
    assert time_between_messages(BUSY, FULL_RECORDS) == pytest.approx(PACE_SECONDS)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (queue_pace, "min(SLOWER_FACTOR * self.seconds, PATIENT_SECONDS)", "SLOWER_FACTOR * self.seconds"),
        (queue_pace, "max(FASTER_FACTOR * self.seconds, PACE_SECONDS)", "FASTER_FACTOR * self.seconds"),
        (queue_pace, "max(FASTER_FACTOR * self.seconds, PACE_SECONDS)", "PACE_SECONDS"),
        (queue_pace, "if messages:", "if not messages:"),
        (queue_buffer, "        if not self._is_full():\n", "        if True:\n"),
        (queue_buffer, "self._sent_at + self._pace.seconds", "self._sent_at"),
    ],
)
def test_a_mutant_of_the_pace_is_found(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, old: str, new: str
) -> None:
    mutant = mutated(module, old, new)
    if module is queue_pace:
        monkeypatch.setitem(globals(), "QueuePace", mutant.QueuePace)
        monkeypatch.setattr(queue_buffer, "QueuePace", mutant.QueuePace)
    else:
        monkeypatch.setattr(bridging, "QueueBuffer", mutant.QueueBuffer)
    with pytest.raises(AssertionError):  # noqa: PT012
        test_a_list_that_is_not_empty_doubles_the_time_up_to_the_patience()
        test_with_empty_lists_the_time_shrinks_slowly_to_the_shortest_one()
        test_small_messages_of_a_busy_queue_have_more_time_between_them()
        test_a_full_message_does_not_change_the_time()
