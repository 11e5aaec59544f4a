"""Follows one event from its record to its outcome, rows, emitted events and calls."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from sluice.admin.decisions import OperationRefused
from sluice.db.admin import tracing
from sluice.db.admin.tracing import TracedCall, TracedEvent, TracedLetter
from sluice.db.apply.rows import RowStatements, read_version
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import read_all_modes, read_starts
from sluice.db.delivery.progress import read_assignments, read_routing
from sluice.db.delivery.skipped_records import read_skipped_ranges
from sluice.db.records import LetterState, Outcome
from sluice.db.values import text_array
from sluice.kafka_io.log_reader import LogReader
from sluice.kafka_io.partition_reader import RecordUnreadable
from sluice.kafka_io.record_types import Record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.skipped_range import next_unskipped
from sluice.tasks.api import Emit, Topic
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.topic_modes import effective_mode, topic_at
from sluice.tasks.events.decode import WITHOUT_IDENTITIES, Decoded, decode, former_identity
from sluice.tasks.events.identity import event_identity, record_identity
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.tasks.fold.decision import derived_id, effect_key
from sluice.tasks.fold.fold_state import TAKEN
from sluice.tasks.fold.plan import Planned, called_effects, plan_event, touched_rows
from sluice.tasks.fold.registry import Registry


@dataclass
class Trace:
    """One event. `emitted` and `calls` do not contain what a handler yields after it reads a row."""

    topic: str
    partition: int
    offset: int
    identity: UUID
    event_id: str | None
    type: str | None
    entity: str
    key: str | None
    queue: str | None
    """None for an erased entity, because its key is not shown."""
    outcome: str | None
    """The outcome of the record that was applied under the identity; None if not known.

    For a topic without identities, only the outcome of a record that was not applied is known.
    """
    processed_at: str | None
    repeats: str | None
    """The earlier record that this record repeats, or conflicts with."""
    error: str | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The current rows that the handlers of the event write: table, key and version."""
    emitted: list[dict[str, Any]] = field(default_factory=list)
    calls: list[TracedCall] = field(default_factory=list)
    letter: TracedLetter | None = None


class RecordPlace(NamedTuple):
    """The position of a record in Kafka: declared topic, partition and offset."""

    topic: Topic
    partition: int
    offset: int


def parse_place(registry: Registry, text: str, share: PartitionShare) -> RecordPlace:
    """Returns the position that the text TOPIC:PARTITION:OFFSET names.

    Raises OperationRefused, also for a partition of another share.
    """
    name, *place = text.rsplit(":", 2)
    if len(place) != 2 or not all(part.isdigit() for part in place):
        raise OperationRefused("pass a record as TOPIC:PARTITION:OFFSET, or pass TOPIC, KEY and EVENT_ID")
    found = RecordPlace(_declared(registry, name), int(place[0]), int(place[1]))
    if why := share.foreign((name, found.partition)):
        raise OperationRefused(f"{why}: run the command there")
    return found


def find_place(
    session: Session, registry: Registry, name: str, key: str, event_id: str, source: str | None
) -> RecordPlace:
    """Returns the position at which the event with this identity was read. Raises OperationRefused
    if the identity is not known.
    """
    topic = _declared(registry, name)
    mode = effective_mode(topic.dedup, read_all_modes(session).get(name))
    if mode in WITHOUT_IDENTITIES:
        raise OperationRefused(
            f'topic {name} has dedup="{mode}", so Postgres has no outcomes of its events by their ids: pass'
            " the record as TOPIC:PARTITION:OFFSET"
        )
    known = tracing.read_traced(session, event_identity(name, source, key.encode(), event_id))
    if known is None and topic.dedup == "position":
        raise OperationRefused(
            f'topic {name} declares dedup="position", so its events cannot be found by id: pass the record as'
            " TOPIC:PARTITION:OFFSET"
        )
    if known is None:
        raise OperationRefused(
            f"no event {event_id} with key {key} of topic {name} was found: the event is not applied"
            " yet, its identity was deleted after the retention time, or the event has a CloudEvents"
            " source (pass --source)"
        )
    return RecordPlace(topic, known.partition, known.offset)


def _declared(registry: Registry, name: str) -> Topic:
    if name not in registry.topics:
        raise OperationRefused(
            f"topic {name} is declared by no module; the declared topics are"
            f" {', '.join(sorted(registry.topics))}"
        )
    return registry.topics[name]


def trace_place(
    session: Session,
    registry: Registry,
    access: KafkaAccess,
    share: PartitionShare,
    place: RecordPlace,
) -> Trace:
    """Reads the record from Kafka and follows it. Raises OperationRefused if there is no record."""
    topic, partition, offset = place
    assignment = read_assignments(session, [(topic.name, partition)]).get((topic.name, partition))
    if assignment is None:
        raise OperationRefused(
            f"no bridge has read topic {topic.name} yet: no record of this topic was applied"
        )
    skipped = read_skipped_ranges(session).get((topic.name, partition), [])
    if next_unskipped(skipped, offset) > offset:
        raise OperationRefused(
            f"{topic.name}:{partition}:{offset} was skipped: see `sluice audit ls --verb skip --json`"
        )
    with closing(LogReader(access, share)) as reader:
        try:
            record = reader.read_record((topic.name, partition), offset)
        except RecordUnreadable as error:
            skip = f'`sluice skip {topic.name}:{partition}:{offset} --reason "…"`'
            raise OperationRefused(f"{error}; run {skip}") from error
    if record is None:
        raise OperationRefused(f"{topic.name}:{partition}:{offset} is not, or no longer, in Kafka")
    return trace(session, registry, topic, assignment.topic_id, partition, record)


def trace(
    session: Session, registry: Registry, topic: Topic, topic_id: str, partition: int, record: Record
) -> Trace:
    """Returns the trace of a record. Only reads."""
    topic = topic_at(topic, read_starts(session, topic_id, partition), record.offset)
    decoded = decode(topic, topic_id, partition, record)
    planned = plan_event(registry, topic, decoded)
    known = _read_known(session, decoded) if decoded.stores_identity else None
    if _is_erased(session, topic, decoded, known):
        return _erased(topic, decoded, known)
    shards, _ = read_routing(session, topic.entity.name) or (topic.entity.shards, 1)
    queue = queue_name(topic.entity.name, shard_of(record.key if decoded.entity_key else None, shards))
    error = decoded.error or planned.error or next((run.error for run in planned.runs if run.error), None)
    found = Trace(
        topic.name,
        partition,
        record.offset,
        decoded.identity,
        decoded.event_id,
        decoded.type,
        topic.entity.name,
        decoded.entity_key,
        queue,
        known.outcome if known else None,
        known.processed_at.isoformat() if known else None,
        _repeated(decoded, known),
        None if error is None else str(error),
    )
    found.letter = tracing.read_traced_letter(session, topic_id, partition, record.offset)
    if not decoded.stores_identity and found.letter is not None and found.letter.state != LetterState.DONE:
        found.outcome = found.letter.outcome
    if error is None:
        _follow(session, planned, found)
    return found


def _is_erased(session: Session, topic: Topic, decoded: Decoded, known: TracedEvent | None) -> bool:
    erasures = Erasures(session)
    erasures.refresh()
    first = None if known is None else (known.topic_id, known.partition, known.offset)
    return bool(erasures.find(topic.entity.name, [(decoded, first)]))


def _erased(topic: Topic, decoded: Decoded, known: TracedEvent | None) -> Trace:
    """Returns the trace of an erased entity, without its key and without the former results."""
    return Trace(
        topic.name,
        decoded.partition,
        decoded.record.offset,
        decoded.identity,
        event_id=None,
        type=decoded.type,
        entity=topic.entity.name,
        key=None,
        queue=None,
        outcome=Outcome.ERASED,
        processed_at=known.processed_at.isoformat() if known else None,
        repeats=None,
        error=None,
    )


def _follow(session: Session, planned: Planned, found: Trace) -> None:
    for table, key in dict.fromkeys(touched_rows(planned)):
        there, version = read_version(session, RowStatements(table), key)
        found.rows.append({"table": str(table.name), "key": key, "there": there, "version": version})
    emits = list(_emits(planned))
    assert found.queue is not None
    waiting = tracing.read_waiting_emits(session, found.queue, [event_id for event_id, _ in emits])
    sent = "not written"
    if found.outcome == Outcome.APPLIED:
        sent = "sent"
    elif found.outcome is None and not planned.decoded.stores_identity:
        sent = "sent, if the event was applied"
    for event_id, emit in emits:
        state = "waits in the outbox" if event_id in waiting else sent
        found.emitted.append({"event_id": event_id, "topic": emit.topic, "type": emit.type, "state": state})
    keys = [effect_key(run, planned.decoded, n, call) for run, n, call in called_effects(planned)]
    found.calls = tracing.read_traced_calls(session, text_array(keys)) if keys else []


def _emits(planned: Planned) -> Iterator[tuple[UUID, Emit]]:
    for run in planned.runs:
        for ordinal, effect in enumerate(run.effects, start=1):
            if isinstance(effect, Emit):
                yield derived_id(planned.decoded.identity, run.entry.name, ordinal), effect


def _read_known(session: Session, decoded: Decoded) -> TracedEvent | None:
    """Returns what is known of the record. Finds it by its offset while it is an undecoded dead
    letter, else by its identity. Also tries the identity that the record had before the topic's
    `dedup` was changed.
    """
    place = (decoded.topic_id, decoded.partition, decoded.record.offset)
    undecoded = tracing.read_traced(session, record_identity(*place))
    if undecoded is not None and undecoded.outcome not in TAKEN:
        return undecoded
    known = tracing.read_traced(session, decoded.identity)
    former = former_identity(decoded)
    if former is None or (known is not None and _is_at(known, decoded)):
        return known
    before = tracing.read_traced(session, former)
    return before if before is not None and _is_at(before, decoded) else known or before


def _is_at(known: TracedEvent, decoded: Decoded) -> bool:
    here = (decoded.topic_id, decoded.partition, decoded.record.offset)
    return (known.topic_id, known.partition, known.offset) == here


def _repeated(decoded: Decoded, known: TracedEvent | None) -> str | None:
    if known is None or _is_at(known, decoded):
        return None
    return f"{known.topic}:{known.partition}:{known.offset}"
