"""Stops writing a broken generation and keeps its offsets. Workers still write the other tables."""

from collections.abc import Mapping, Sequence

import structlog

from sluice.db.apply import guard, projection_letters
from sluice.db.connection import Session
from sluice.db.projections import generation_lanes, generations
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.projections.stopped_generations import stop_generation
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.tasks.api import Topic
from sluice.tasks.apply.circuit_breaker import FAILED, SUCCEEDED, judge_batch
from sluice.tasks.fold.fold_state import EventResult

log = structlog.get_logger("sluice.generations")


class GenerationBroken(Exception):
    """Raised if no event can be applied to one generation's table because the deployment is at fault."""

    def __init__(self, synced: SyncedGeneration, error: Exception) -> None:
        self.synced = synced
        self.reason = reason_of(error)
        super().__init__(f"{synced.table}: {self.reason}")


def reason_of(error: Exception) -> str:
    """Returns the reason that is stored when a generation fails or stops."""
    return printable(f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARACTERS]


def end_feeding(session: Session, synced: SyncedGeneration, queue: str, reason: str) -> None:
    """Marks a generation as stopped if it has been live, else as failed. Runs in a batch's transaction."""
    if not synced.has_been_live:
        generations.fail_generation(session, synced.projection, synced.generation, reason)
        log.error("generation failed", table=synced.table, queue=queue, reason=reason)
    elif stop_generation(session, synced.projection, synced.generation, reason):
        log.error(
            'generation stopped; run `sluice rebuild resume NAME --reason "…"`',
            table=synced.table,
            reason=reason,
        )


def stop_broken(session: Session, queue: str, broken: GenerationBroken) -> None:
    """Stops a live generation that refused a batch, in a separate transaction after the rollback."""
    synced = broken.synced
    with session.transaction():
        guard.lock_queue(session, queue)
        end_feeding(session, synced, queue, broken.reason)
        generation_lanes.keep_live_places(session, synced.projection, synced.generation, queue)


def count_failures(
    session: Session,
    synced: SyncedGeneration,
    queue: str,
    topics: Mapping[str, Topic],
    settled: Sequence[EventResult],
    *,
    before: str,
) -> str | None:
    """Counts the failures of a generation. Returns the reason to stop writing the generation, or None.

    Sends no statement while no event fails. `before` is the failure window of a generation without failures.
    """
    window = synced.failure_window
    if window is None and not any(_failed(one, synced.projection) for one in settled):
        return None
    results = "".join(
        FAILED if _failed(one, synced.projection) else SUCCEEDED
        for one in settled
        if _was_tried(one, synced.projection, topics)
    )
    verdict = judge_batch(before if window is None else window, results, 0)
    place = (synced.projection, synced.generation, queue)
    if verdict.halts:
        last = next(
            letter
            for one in reversed(settled)
            for letter in one.letters
            if letter.failed and letter.projection == synced.projection
        )
        failures = verdict.failure_window.count(FAILED)
        projection_letters.write_failures(session, *place, "")
        return (
            f"{failures} of the last {len(verdict.failure_window)} events failed in queue {queue}, most"
            f" recently by {last.fault}"
        )
    after = verdict.failure_window if FAILED in verdict.failure_window else ""
    if after or window is not None:
        projection_letters.write_failures(session, *place, after)
    return None


def _failed(settled: EventResult, projection: str) -> bool:
    return any(letter.projection == projection and letter.failed for letter in settled.letters)


def _was_tried(settled: EventResult, projection: str, topics: Mapping[str, Topic]) -> bool:
    """Returns True if the projection applied the event, or if its failure to apply the event counts."""
    if not settled.is_taken:
        return False
    planned = settled.planned
    if not any(run.into is not None and run.into.name == projection for run in planned.runs):
        return False
    mine = [letter for letter in settled.letters if letter.projection == projection]
    if not mine:
        return True
    return mine[0].failed and topics[planned.decoded.topic].on_failure != "skip"
