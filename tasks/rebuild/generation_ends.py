"""Ends the rebuild of a generation that has caught up with the live generation or cannot continue."""

import structlog
from psycopg2.errors import LockNotAvailable

from sluice.db.apply.projection_letters import clear_failures
from sluice.db.connection import Session
from sluice.db.projections import generation_lag, generation_tables, generations
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.projections.stopped_generations import end_resuming, stop_generation
from sluice.db.records import GenerationState
from sluice.db.values import MAX_ERROR_CHARACTERS, printable

log = structlog.get_logger("sluice.rebuild")

# While all queues are locked, all workers wait. If the locks are not free in time, the next task tries again.
LOCK_PATIENCE = "SET LOCAL lock_timeout = '1s'"


def note_met(session: Session, synced: SyncedGeneration) -> None:
    """Records that a partition of the generation has caught up with the live generation. Idempotent."""
    if synced.state != GenerationState.RESUMING:
        generation_lag.note_ready(session, synced.projection, synced.generation)
    elif _end_resuming(session, synced):
        log.info("generation resumed", table=synced.table)


def note_failure(session: Session, synced: SyncedGeneration, error: Exception) -> None:
    """Marks a generation as failed, or as stopped if it was live before: it cannot continue."""
    reason = printable(str(error))[:MAX_ERROR_CHARACTERS]
    place = (synced.projection, synced.generation, reason)
    if generations.fail_generation(session, *place):
        log.error("generation failed", table=synced.table, reason=reason)
    elif stop_generation(session, *place):
        log.error("generation stopped again", table=synced.table, reason=reason)


def _end_resuming(session: Session, synced: SyncedGeneration) -> bool:
    """If a resuming generation has caught up, gives it back its former state, so that it receives events.

    Returns True if the state changed. Holds the locks of all queues, because the workers must change
    together. Until now, they write to the generation only in lanes (a partition and a queue) that have
    caught up. From now on, they write to it in every lane.
    """
    place = (synced.projection, synced.generation)
    try:
        with session.transaction():
            session.command(LOCK_PATIENCE)
            generation_tables.lock_all_queues(session)
            lanes = generation_lag.read_lane_states(session, *place)
            if any(lane.generation < lane.live for lane in lanes):
                return False
            clear_failures(session, *place)
            return end_resuming(session, *place)
    except LockNotAvailable:
        return False
