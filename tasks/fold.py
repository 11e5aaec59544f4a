"""The fold: events in record order against rows in memory. Pure; the same code is the oracle of the tests."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar, assert_never
from uuid import UUID

import msgspec
from sqlalchemy import Table

from db.errors import DeploymentBroken
from db.records import LedgerRow, OutboxRow
from db.tables import Shape, TableRefused, shape_of
from tasks import rows
from tasks.api import (
    Call,
    Delete,
    Effect,
    Emit,
    Event,
    EventVersion,
    Increment,
    Insert,
    Merge,
    Read,
    Rejected,
    Upsert,
    WriteVersion,
)
from tasks.decode import Decoded
from tasks.emitting import outbox_row, trace_of
from tasks.plan import HandlerRun, Planned
from tasks.rows import Fate, Row

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Outcome(Enum):
    """What became of a record: exactly one each."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    STALE = "stale"
    CONFLICT = "conflict"
    WAITING = "waiting"
    DEAD = "dead"
    IGNORED = "ignored"


# Several handlers of one event, several writes of one handler: the first of these that occurs.
_WORST_FIRST = (
    Outcome.DEAD,
    Outcome.CONFLICT,
    Outcome.APPLIED,
    Outcome.STALE,
    Outcome.DUPLICATE,
    Outcome.IGNORED,
)
_BY_FATE = {
    Fate.APPLIED: Outcome.APPLIED,
    Fate.STALE: Outcome.STALE,
    Fate.DUPLICATE: Outcome.DUPLICATE,
    Fate.CONFLICT: Outcome.CONFLICT,
}


class Conflict(Exception):
    """The event contradicts what is there: same identity or version, other content."""


class Waiting(Exception):
    """The event waits behind a dead letter of its entity."""


class Known(NamedTuple):
    """Where and with what an identity was first seen."""

    data_hash: UUID
    topic_id: str
    partition: int
    offset: int


@dataclass(slots=True)
class Settled:
    """One record with its outcome; None where the very same record was settled before: counted then."""

    planned: Planned
    outcome: Outcome | None
    error: Exception | None = None
    known: bool = False
    """Its identity has a row already, so it gets none."""
    call_conflicts: int = 0
    outgoing: int = 0
    """Rows for others that it wrote: events and calls."""


@dataclass(slots=True)
class Memory:
    """What the fold knows and makes: rows, identities and effect keys, loaded when first asked for."""

    load_row: Callable[[Table, str], Row]
    load_effect: Callable[[str], UUID | None]
    effects: frozenset[str]
    """Names of the declared effects."""
    rows: dict[tuple[Table, str], Row] = field(default_factory=dict)
    identities: dict[UUID, Known] = field(default_factory=dict)
    effect_keys: dict[str, UUID | None] = field(default_factory=dict)
    parked: set[str] = field(default_factory=set)
    """Keys of parked entities, of the one entity type that is folded."""
    failure: Exception | None = None
    """What loading met: the database's fault, never that of the event which asked."""

    def row(self, table: Table, key: str) -> Row:
        """The row as of now."""
        place = (table, key)
        if place not in self.rows:
            self.rows[place] = self._load(lambda: self.load_row(table, key))
        return self.rows[place]

    def fingerprint(self, effect_key: str) -> UUID | None:
        """The fingerprint under an effect key, None if it is free."""
        if effect_key not in self.effect_keys:
            self.effect_keys[effect_key] = self._load(lambda: self.load_effect(effect_key))
        return self.effect_keys[effect_key]

    def _load(self, load: Callable[[], T]) -> T:
        try:
            return load()
        except Exception as failure:
            self.failure = failure
            raise


@dataclass(slots=True)
class Folded:
    """What a sequence of events comes to; the rows are in the memory it was folded into."""

    settled: list[Settled] = field(default_factory=list)
    emits: list[OutboxRow] = field(default_factory=list)
    calls: list[LedgerRow] = field(default_factory=list)
    call_conflicts: list[LedgerRow] = field(default_factory=list)
    parked: list[tuple[str, str]] = field(default_factory=list)
    """Entities that were parked: key and reason."""

    def bury(self, planned: Planned, error: Exception, memory: Memory) -> Settled:
        """The event is dead; its entity is parked if it has one and the topic says so."""
        key = planned.decoded.entity_key
        if key is not None and planned.parks:
            memory.parked.add(key)
            self.parked.append((key, f"{type(error).__name__}: {error}"))
        self.settled.append(Settled(planned, Outcome.DEAD, error))
        return self.settled[-1]


def fold(events: Iterable[Planned], memory: Memory) -> Folded:
    """Settles each event in turn; an event's own fault is its outcome.

    Raises DeploymentBroken, and what loading raised: a lost connection must not bury the event that met it.
    """
    folded = Folded()
    for planned in events:
        try:
            folded.settled.append(_settle(planned, memory, folded))
        except _Died as died:
            folded.bury(planned, died.error, memory)
    return folded


def effect_key(run: HandlerRun, decoded: Decoded, ordinal: int, call: Call) -> str:
    """The idempotency key of a call: effect and `once`, or effect and where it came from."""
    once = call.once or derived_id(decoded.identity, run.entry.name, ordinal).hex
    return f"{call.effect}:{once}"


def derived_id(identity: UUID, handler: str, ordinal: int) -> UUID:
    """The same id whenever the same event is folded again."""
    source = identity.bytes + ordinal.to_bytes(4, "big") + handler.encode()
    return UUID(bytes=blake2b(source, digest_size=16).digest())


def _settle(planned: Planned, memory: Memory, folded: Folded) -> Settled:
    decoded = planned.decoded
    record = decoded.record
    here = Known(decoded.data_hash, decoded.topic_id, decoded.partition, record.offset)
    known = memory.identities.get(decoded.identity)
    if known == here:
        return Settled(planned, None, known=True)
    if known is not None and known.data_hash == here.data_hash:
        return Settled(planned, Outcome.DUPLICATE, known=True)
    if known is not None:
        text = f"event id seen before at {known.partition}:{known.offset} with other type, version or data"
        return Settled(planned, Outcome.CONFLICT, Conflict(text), known=True)
    memory.identities[decoded.identity] = here
    if planned.ignored:
        return Settled(planned, Outcome.IGNORED)
    if decoded.entity_key in memory.parked:
        return Settled(planned, Outcome.WAITING, Waiting("its entity is parked"))
    error = decoded.error or planned.error
    if error is not None:
        raise _Died(error)
    scratch = _Scratch(planned, memory)
    try:
        outcome = scratch.run_handlers()
    except DeploymentBroken:
        raise
    except Conflict as conflict:
        return Settled(planned, Outcome.CONFLICT, conflict)
    except ImportError as missing:
        raise DeploymentBroken(f"a handler cannot import {missing.name}: {missing}") from missing
    except TableRefused as refused:
        raise DeploymentBroken(str(refused)) from refused
    except Exception as fault:
        if fault is memory.failure:
            raise
        raise _Died(fault) from fault
    memory.rows.update(scratch.rows)
    memory.effect_keys.update({call.effect_key: call.fingerprint for call in scratch.calls})
    folded.emits += scratch.emits
    folded.calls += scratch.calls
    folded.call_conflicts += scratch.call_conflicts
    outgoing = len(scratch.emits) + len(scratch.calls)
    return Settled(planned, outcome, call_conflicts=len(scratch.call_conflicts), outgoing=outgoing)


class _Died(Exception):
    """The event's own fault."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Ended(Exception):
    """The gate rule: the first write that does not take effect ends its handler."""


class _Scratch:
    """What one event would do; taken over only if nothing in it dies or conflicts."""

    def __init__(self, planned: Planned, memory: Memory) -> None:
        self.decoded = planned.decoded
        self.runs: Sequence[HandlerRun] = planned.runs
        self.memory = memory
        self.rows: dict[tuple[Table, str], Row] = {}
        self.emits: list[OutboxRow] = []
        self.calls: list[LedgerRow] = []
        self.call_conflicts: list[LedgerRow] = []
        self.fates: set[Outcome] = set()
        self.ordinal = 0

    def run_handlers(self) -> Outcome:
        """All handlers of the event, one decision. Raises what kills it, or Conflict."""
        for run in self.runs:
            self.ordinal = 0
            effects = run.play()
            try:
                answer = None
                while True:
                    answer = self.apply(run, effects.send(answer))
            except (StopIteration, _Ended):
                effects.close()
        return next((outcome for outcome in _WORST_FIRST if outcome in self.fates), Outcome.IGNORED)

    def apply(self, run: HandlerRun, effect: Effect) -> Any:
        """One effect; returns the row for a Read."""
        self.ordinal += 1
        match effect:
            case Emit():
                self.fates.add(Outcome.APPLIED)
                event_id = derived_id(self.decoded.identity, run.entry.name, self.ordinal)
                trace = dict(trace_of(run.event.headers))
                self.emits.append(outbox_row(effect, event_id, run.event.time, trace))
            case Call():
                self.fates.add(Outcome.APPLIED)
                self.call(run, effect)
            case Read(table, key):
                return _view(
                    shape_of(table), _checked_key(table, key), self.row(table, _checked_key(table, key))
                )
            case Insert() | Upsert() | Merge() | Increment() | Delete():
                self.write(run, effect)
            case _:
                # mypy sees that no effect is left; a handler may still yield what is none.
                raise DeploymentBroken(f"{run.entry.name} yielded {effect!r}, which is no effect")
        return None

    def row(self, table: Table, key: str) -> Row:
        """The row as this event sees it."""
        return self.rows.get((table, key)) or self.memory.row(table, key)

    def write(self, run: HandlerRun, write: Insert | Upsert | Merge | Increment | Delete) -> None:
        """One write. Raises _Ended where it took no effect, Conflict where it contradicts the row."""
        table = write.table
        key = _checked_key(table, write.key)
        shape = shape_of(table)
        fate, after = _written(shape, self.row(table, key), write, run.event)
        if fate is None:
            assert isinstance(write, Increment)
            self.fates.add(Outcome.APPLIED)
            for instead in write.otherwise:
                self.apply(run, instead)
            raise _Ended
        if fate is Fate.CONFLICT:
            raise Conflict(
                f"{type(write).__name__} of {table.name} {key!r}: same version or id, other values"
            )
        self.fates.add(_BY_FATE[fate])
        if fate is not Fate.APPLIED:
            raise _Ended
        self.rows[table, key] = after

    def call(self, run: HandlerRun, call: Call) -> None:
        """One ledger row, unless its key is there: then no call, and other args are a call conflict."""
        if call.effect not in self.memory.effects:
            raise DeploymentBroken(f"{run.entry.name} calls effect {call.effect!r}, declared by no module")
        args = msgspec.json.encode(call.args, order="sorted")
        fingerprint = UUID(bytes=blake2b(args, digest_size=16).digest())
        name = effect_key(run, self.decoded, self.ordinal, call)
        made = LedgerRow(
            name,
            call.effect,
            self.decoded.identity,
            self.decoded.entity_key,
            args.decode(),
            fingerprint,
            call.once is not None,
        )
        mine = next((other.fingerprint for other in self.calls if other.effect_key == name), None)
        known = mine or self.memory.fingerprint(name)
        if known is None:
            self.calls.append(made)
        elif known != fingerprint:
            self.call_conflicts.append(made)


def _written(
    shape: Shape, row: Row, write: Insert | Upsert | Merge | Increment | Delete, event: Event[Any]
) -> tuple[Fate | None, Row]:
    match write:
        case Upsert(_, _, values, version):
            return rows.upsert(shape, row, values, _resolved(shape, version, event))
        case Insert(_, _, values):
            return rows.insert(shape, row, values, _number(shape, event.version))
        case Merge(_, _, values, version):
            return rows.merge(shape, row, values, _resolved(shape, version, event))
        case Increment(_, _, deltas, floor):
            return rows.increment(shape, row, deltas, floor)
        case Delete(_, _, version):
            return rows.delete(shape, row, _resolved(shape, version, event))
        case _:
            assert_never(write)


def _resolved(shape: Shape, version: WriteVersion, event: Event[Any]) -> int | None:
    if version is None:
        return None
    if isinstance(version, EventVersion):
        if event.version is None:
            raise Rejected(f"the event has no version, and {shape.name} is written by version")
        version = event.version
    return _number(shape, version)


def _number(shape: Shape, version: int | datetime | None) -> int | None:
    """A version as it is stored: the integer, or microseconds since 1970."""
    if version is None:
        return None
    wanted = int if shape.versions == "integer" else datetime
    if type(version) is not wanted:
        raise Rejected(f"version {version!r} where {shape.name} has versions={shape.versions!r}")
    if isinstance(version, datetime):
        if version.tzinfo is None:
            raise Rejected(f"version {version!r} has no offset")
        return (version - _EPOCH) // _MICROSECOND
    if not -(2**63) <= version < 2**63:
        raise Rejected(f"version {version} does not fit 64 bits")
    return version


def _checked_key(table: Table, key: str | None) -> str:
    if key is None:
        raise Rejected(f"no key for table {table.name}: the record's key is null or unreadable")
    shape = shape_of(table)
    checked: str = shape.coercers[shape.key](key)
    return checked


def _view(shape: Shape, key: str, row: Row) -> Mapping[str, Any] | None:
    if row.values is None:
        return None
    # In declared order: an event emitted from it is the same, byte for byte, in whatever batch.
    return {
        shape.key: key,
        **{name: row.values[name] for name in shape.row_columns},
        "version": row.version,
    }
