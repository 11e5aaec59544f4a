"""Folds one chunk of the log into a generation. Ends a rebuild in which too many events fail."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from sluice.db.apply.projection_letters import copy_dropped, read_dropped, read_generation_health
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken
from sluice.db.projections.generation_lag import PartitionSnapshot
from sluice.db.projections.generation_records import Known
from sluice.db.projections.generations import SyncedGeneration
from sluice.kafka_io.partition_reader import LogIncomplete
from sluice.kafka_io.whole_record import ReadWhole
from sluice.tasks.api import Topic
from sluice.tasks.apply.circuit_breaker import SUCCEEDED, WINDOW
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.generation_feed import Refuse, apply_to_generation
from sluice.tasks.apply.generation_stops import count_failures
from sluice.tasks.events.decode import Decoded, decode
from sluice.tasks.fold.fold_state import RecordPlace
from sluice.tasks.fold.plan import Planned
from sluice.tasks.rebuild.rebuild_lane import RebuildLane


def feed_chunk(
    session: Session,
    topics: Mapping[str, Topic],
    snapshot: PartitionSnapshot,
    lane: RebuildLane,
    events: Sequence[Planned],
    refuse: Refuse,
    singly: bool,
) -> None:
    """Folds events that workers applied, under the lock of their lane. Raises DeploymentBroken.

    `singly`: each event has its own savepoint. Used after Postgres refused the chunk as a whole.
    """
    synced = snapshot.synced
    place = (synced.projection, synced.generation, snapshot.entity, lane.queue)
    # Read under the lock of the lane, which a redrive also takes.
    has_letters, window = read_generation_health(session, *place)
    synced = synced._replace(has_letters=has_letters, failure_window=window)
    settled = apply_to_generation(session, synced, events, snapshot.entity, refuse, singly)
    # If no failure is stored, the earlier events of the lane count as successes.
    before = SUCCEEDED * min(WINDOW, lane.applied + 1)
    reason = count_failures(session, synced, lane.queue, topics, settled, before=before)
    if reason is not None:
        raise DeploymentBroken(reason)


def pass_over_dropped(session: Session, synced: SyncedGeneration, events: Iterable[Decoded]) -> set[UUID]:
    """Returns the identities of events that an operator dropped for this generation or the live one.

    Stores the drops for this generation, so that they remain if another generation becomes live.
    """
    place = (synced.projection, synced.generation)
    dropped = read_dropped(session, *place, [one.identity for one in events])
    if dropped:
        copy_dropped(session, *place)
    return dropped


def find_erased(
    erasures: Erasures, snapshot: PartitionSnapshot, found: Sequence[tuple[Decoded, Known | None]]
) -> set[RecordPlace]:
    """Returns the places of erased records. Runs under the lane's lock, which an erasure takes too."""
    erasures.refresh()
    return erasures.find(snapshot.entity, [(one, known and known[2:5]) for one, known in found])


def decode_whole(read_whole: ReadWhole, topic: Topic, cut: Decoded) -> Decoded:
    """Reads the whole record of an event that the chunk holds without its value. Raises LogIncomplete."""
    record = read_whole((cut.topic, cut.partition), cut.record.offset)
    if record is None:
        raise LogIncomplete(f"{topic.name}[{cut.partition}] no longer holds offset {cut.record.offset}")
    return decode(topic, cut.topic_id, cut.partition, record)
