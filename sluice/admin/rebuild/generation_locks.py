"""Finds the generation to change, takes its locks, and checks that it has applied the same events
as the live generation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from psycopg2.errors import DeadlockDetected, DependentObjectsStillExist, LockNotAvailable, QueryCanceled

from sluice.admin.decisions import OperationRefused
from sluice.admin.operation_wait import NotYet
from sluice.admin.rebuild.open_transactions import name_transactions
from sluice.db.connection import Session
from sluice.db.projections import generation_tables, generations
from sluice.db.projections.generation_lag import end_rebuild, read_lane_states, try_rebuild
from sluice.db.projections.generations import Generation
from sluice.db.projections.snapshots import read_lock_holders
from sluice.db.records import GenerationState
from sluice.runtime.terminal_text import counted, plural

# Copies and comparisons of whole tables have no time limit.
COPY_PATIENCE = "SET LOCAL statement_timeout = 0"
# Live traffic waits while queues are locked, so a retry is better than a long wait for the last lock.
LOCK_PATIENCE = "SET LOCAL lock_timeout = '1s'"


ADVICE = (
    "Check that workers with the revision of the generation run on the queues of the entity types and on"
    " `rebuild`"
)


class Behind(NotYet):
    """Lanes of the generation are behind the live generation now."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, ADVICE)


class Held(NotYet, OperationRefused):
    """Another process holds a lock that the operation needs."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, ADVICE)


def require_generation(
    session: Session, projection: str, generation: int | None, states: tuple[str, ...], what: str
) -> Generation:
    """Returns the generation with this number; without a number, the only generation in one of
    these states. Raises OperationRefused.
    """
    found = generations.read_generations(session, projection)
    if not found:
        raise OperationRefused(
            f"there is no projection {projection}: `sluice rebuild status` lists the projections"
        )
    if generation is not None:
        named = [one for one in found if one.generation == generation]
        if not named:
            raise OperationRefused(f"{projection} has no generation {generation}")
        if named[0].state not in states:
            raise OperationRefused(f"generation {generation} of {projection} is {named[0].state}: {what}")
        return named[0]
    fitting = [one for one in found if one.state in states]
    if len(fitting) != 1:
        numbers = ", ".join(f"{one.generation} is {one.state}" for one in found)
        cure = ": pass --generation"
        if not fitting:
            cure = how_to_get_one(projection, [one.state for one in found], states)
        raise OperationRefused(
            f"{projection}: {what}; {'none' if not fitting else 'more than one'} is"
            f" {' or '.join(states)} ({numbers}){cure}"
        )
    return fitting[0]


def how_to_get_one(projection: str, found: Sequence[str], states: Sequence[str]) -> str:
    """Returns how a projection gets a generation in one of `states`; an empty text if a rebuild cannot make
    such a generation. Pure.
    """
    if GenerationState.READY not in states:
        return ""
    if GenerationState.BUILDING in found:
        return f": wait for the one that is building; `sluice rebuild status {projection}` shows its progress"
    return f': start one by `sluice rebuild start {projection} --reason "…"`'


@contextmanager
def copying(session: Session, projection: str) -> Iterator[None]:
    """Prevents other commands from copying tables of a projection during the block. Raises Held.

    Without this lock, the second of two starts would remove the new table of the first start as
    left over, and a copy that began before an erasure would restore the erased rows.
    """
    if not try_rebuild(session, f"start {projection}", 0):
        raise Held(f"another command is copying or erasing rows of {projection}; wait until it has ended")
    try:
        yield
    finally:
        end_rebuild(session, f"start {projection}", 0)


def lock_all(session: Session) -> None:
    """Locks all queues. Raises database errors, which `patiently` translates."""
    session.command(LOCK_PATIENCE)
    generation_tables.lock_all_queues(session)


def require_lockstep(session: Session, projection: str, generation: int) -> None:
    """Raises Behind if a lane has not reached the offset of the live generation in this lane.

    After a start from a checkpoint, the offset of a lane may be higher. It is then the watermark:
    the live generation has applied all records below it.
    """
    lanes = [
        lane for lane in read_lane_states(session, projection, generation) if lane.generation < lane.live
    ]
    if lanes:
        first = lanes[0]
        raise Behind(
            f"{counted(len(lanes), 'lane')} of generation {generation}"
            f" {plural(len(lanes), 'is', 'are')} behind the live generation, the first is"
            f" {first.topic}[{first.partition}] in {first.queue}: {first.generation} of {first.live}"
        )


@contextmanager
def patiently(session: Session, projection: str) -> Iterator[None]:
    """Raises Held if a lock is not released in time, OperationRefused if an object depends on a table.

    Must contain a whole transaction; must not be used within a transaction.
    """
    try:
        yield
    except DependentObjectsStillExist as error:
        detail = str(error.diag.message_detail or error).splitlines()[0]
        raise OperationRefused(f"{projection}: {detail}; change it to read the view {projection}") from error
    except (LockNotAvailable, QueryCanceled, DeadlockDetected) as error:
        tables = [one.table for one in generations.read_generations(session, projection)]
        holders = name_transactions(read_lock_holders(session, [projection, *tables]))
        raise Held(
            f"another transaction has locked a queue, or the view {projection}, for too long"
            + (f": {holders}" if holders else "")
        ) from error
