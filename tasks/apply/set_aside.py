"""Sets one event aside within the transaction of its batch: it waits in Postgres while the lane continues."""

from sluice.db.apply.retries import insert_retry
from sluice.db.connection import Session
from sluice.tasks.apply.fold_io import FoldIO
from sluice.tasks.apply.set_aside_rules import RetryLimits, kind_of
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold_state import EventResult, FoldResult
from sluice.tasks.fold.plan import Planned


def set_aside(
    session: Session,
    store: FoldIO,
    queue: str,
    planned: Planned,
    error: Exception,
    limits: RetryLimits = RetryLimits(),
) -> EventResult:
    """Writes the event's waiting letter with its retry, and parks its entity, under the queue's lock.

    The error must be one of the surroundings. The caller decides after the batch if this is committed.
    """
    memory = store.load([])
    aside = FoldResult()
    settled = aside.set_aside(planned, EventFault.of(error), memory)
    store.write_back(queue, memory, aside)
    decoded = planned.decoded
    place = (decoded.topic_id, decoded.partition, decoded.record.offset)
    insert_retry(session, *place, kind=kind_of(error), pause_seconds=limits.pause_seconds(1))
    return settled
