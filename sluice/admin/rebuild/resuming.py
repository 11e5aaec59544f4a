"""Resumes a stopped generation: first its letters, then the log from its offset, then new events."""

from collections.abc import Iterator, Sequence
from contextlib import closing

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.projection_letters import LettersRedriven, plan_projection_redrive, redrive_projection
from sluice.admin.rebuild.generation_locks import lock_all, patiently, require_generation
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.projection_letters import ChosenLetters
from sluice.db.connection import Session
from sluice.db.projections import generation_lanes, generations
from sluice.db.projections.generations import Generation
from sluice.db.projections.stopped_generations import StoppedPlace, begin_resuming, read_stopped_places
from sluice.db.records import GenerationState
from sluice.kafka_io.log_range import LogRanges
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.tasks.projection_redrive import ProjectionRedriver

RESUMABLE = (GenerationState.STOPPED,)


def find_stopped(session: Session, projection: str, number: int | None) -> Generation | None:
    """Returns the stopped generation of a projection, None if there is none. Raises OperationRefused."""
    stopped = [
        one
        for one in generations.read_generations(session, projection)
        if one.state in RESUMABLE and number in (None, one.generation)
    ]
    if not stopped:
        return None
    what = "only a stopped generation can be resumed"
    return require_generation(session, projection, number, RESUMABLE, what)


def require_resumable(
    session: Session, access: KafkaAccess, share: PartitionShare, generation: Generation
) -> None:
    """Raises OperationRefused if the log no longer holds the records that the generation lacks."""
    name = f"generation {generation.generation} of {generation.projection}"
    if generation.stopped_at is None:
        raise OperationRefused(
            f"{name} cannot catch up, because its offset in the log is lost"
            f" ({generation.failed_reason}): start another generation by `sluice"
            f' rebuild start {generation.projection} --reason "…"`'
        )
    places = [
        one
        for one in read_stopped_places(session)
        if (one.projection, one.generation) == (generation.projection, generation.generation)
    ]
    with closing(LogReader(access, share)) as reader:
        refusals = resume_refusals(places, reader.read_ranges(sorted({one.topic for one in places})))
    if refusals:
        raise OperationRefused(f"{name}: {'; '.join(refusals)}")


def resume_refusals(places: Sequence[StoppedPlace], logs: LogRanges) -> list[str]:
    """Returns why the log does not hold the records that a generation lacks. Pure."""
    refusals = []
    for one in places:
        place = (one.topic, one.partition)
        where = f"{one.topic}[{one.partition}]"
        log = logs.ranges.get(place)
        if log is None:
            why = (
                logs.unreadable.get(place)
                or logs.unreadable_topics.get(one.topic)
                or "Kafka has no such topic"
            )
            refusals.append(f"{where} cannot be read: {why}")
        elif log.start > one.applied_offset + 1:
            refusals.append(
                f"{where} begins at offset {log.start}, so the records from {one.applied_offset + 1} on are"
                f" missing: start another generation by `sluice rebuild start {one.projection} --reason"
                ' "…"`'
            )
    return refusals


def resume(
    session: Session, redriver: ProjectionRedriver, generation: Generation, decision: Decision
) -> Iterator[LettersRedriven]:
    """Redrives the letters of each entity, and yields the results. Then lets the generation catch up.

    Can be killed anywhere and repeated. Raises OperationRefused for a broken deployment.
    """
    place = (generation.projection, generation.generation)
    plan = plan_projection_redrive(session, ChosenLetters(*place))
    yield from redrive_projection(session, redriver, plan, decision)
    with patiently(session, generation.projection), session.transaction():
        lock_all(session)
        if generations.lock_projection(session, generation.projection) == generation.generation:
            generation_lanes.keep_live_places(session, *place, None)
        if begin_resuming(session, *place):
            details = as_json({"generation": generation.generation, "was": GenerationState.STOPPED})
            insert_audits(session, decision, [(generation.projection, details)])
