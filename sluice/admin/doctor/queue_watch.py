"""Looks twice at the queues: a list that has messages, and no batch that is committed."""

from collections.abc import Callable, Mapping

from sluice.admin.doctor.facts import StuckQueue
from sluice.db.admin.server_facts import Blocker, read_blockers
from sluice.db.admin.waiting_facts import read_queue_progress
from sluice.db.connection import Session

LOOK_SECONDS = 0.5


def watch_queues(
    session: Session,
    read_lengths: Callable[[], Mapping[str, int]],
    seconds: float,
    *,
    sleep: Callable[[float], object],
    clock: Callable[[], float],
) -> list[StuckQueue]:
    """Returns the queues that have messages and commit nothing for so many seconds.

    Ends with the first commit of each: nothing is waited for where all queues are empty or move. A list that
    is empty for a moment counts: a worker takes a message, fails, and the bridge sends it again.
    """
    before = read_queue_progress(session)
    suspects = {queue for queue, length in read_lengths().items() if length}
    blockers: dict[int, Blocker] = {}
    began = clock()
    while suspects and clock() - began < seconds:
        sleep(LOOK_SECONDS)
        suspects = unmoved(suspects, before, read_queue_progress(session))
        if suspects:
            blockers |= {one.pid: one for one in read_blockers(session)}
    lengths = read_lengths() if suspects else {}
    return [
        StuckQueue(queue, lengths[queue], clock() - began, list(blockers.values()))
        for queue in sorted(suspects)
        if lengths[queue]
    ]


def unmoved(suspects: set[str], before: Mapping[str, int], after: Mapping[str, int]) -> set[str]:
    """Returns the queues of which nothing was committed between the two looks. Pure."""
    return {queue for queue in suspects if before.get(queue) == after.get(queue)}
