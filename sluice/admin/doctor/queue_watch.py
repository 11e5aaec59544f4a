"""Detects, by two checks, queues that commit none of their messages, and generations that are not filled."""

from collections.abc import Callable, Mapping, Set
from typing import TypeVar

from sluice.admin.doctor.facts import StuckQueue
from sluice.db.admin.server_facts import Blocker, read_blockers
from sluice.db.admin.waiting_facts import read_queue_progress
from sluice.db.connection import Session

LOOK_SECONDS = 0.5
T = TypeVar("T")


def watch_queues(
    session: Session,
    read_lengths: Callable[[], Mapping[str, int]],
    seconds: float,
    *,
    sleep: Callable[[float], object],
    clock: Callable[[], float],
) -> list[StuckQueue]:
    """Returns the queues that have messages and commit nothing for so many seconds.

    Returns as soon as each queue has committed or is empty. A queue also counts if its list is
    empty for a moment: a worker may take a message and fail, and the bridge then sends the message again.
    """
    suspects = {queue for queue, length in read_lengths().items() if length}
    blockers: dict[int, Blocker] = {}

    def read() -> Mapping[str, int]:
        blockers.update({one.pid: one for one in read_blockers(session)})
        return read_queue_progress(session)

    still = watch(suspects, read, seconds, sleep=sleep, clock=clock) if suspects else {}
    lengths = read_lengths() if still else {}
    return [
        StuckQueue(queue, lengths[queue], seconds, list(blockers.values()))
        for queue, seconds in sorted(still.items())
        if lengths[queue]
    ]


def watch(
    suspects: Set[T],
    read: Callable[[], Mapping[T, int]],
    seconds: float,
    *,
    sleep: Callable[[float], object],
    clock: Callable[[], float],
) -> dict[T, float]:
    """Returns the suspects whose number does not change for so many seconds → the time watched.

    Returns as soon as the number of each suspect has changed.
    """
    before, left, began = read(), set(suspects), clock()
    while left and clock() - began < seconds:
        sleep(LOOK_SECONDS)
        left = unmoved(left, before, read())
    return dict.fromkeys(left, clock() - began)


def unmoved(suspects: Set[T], before: Mapping[T, int], after: Mapping[T, int]) -> set[T]:
    """Returns the suspects whose number is the same in both checks. Pure."""
    return {one for one in suspects if before.get(one) == after.get(one)}
