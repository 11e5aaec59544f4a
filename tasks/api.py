"""The names that handler code imports: events, effects, topics, and the decorators of handlers."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from types import FunctionType
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
from sqlalchemy import Table

D = TypeVar("D")
JsonObject: TypeAlias = dict[str, Any]
Row: TypeAlias = Mapping[str, Any]
Columns: TypeAlias = Mapping[Any, Any]
"""Column → value. A column is its name, the column itself (`orders.c.status`), or an Enum member."""
Text: TypeAlias = str | Enum
"""A string, or an Enum member whose value is a string."""
Version: TypeAlias = int | datetime
"""An integer that fits 64 bits, or an aware datetime (kept as microseconds)."""


class EventVersion:
    """Type of `EVENT`: the version of the event itself."""

    def __repr__(self) -> str:
        return "EVENT"


EVENT = EventVersion()
"""Default of `version=`: the event's own version; the event is rejected if it has none."""

WriteVersion: TypeAlias = Version | EventVersion | None


class Event(msgspec.Struct, Generic[D], frozen=True):
    """One decoded event. `headers` are the headers of the record, without those of CloudEvents."""

    id: str | None
    type: str
    key: str | None
    version: Version | None
    time: datetime | None
    data: D
    topic: str
    partition: int
    offset: int
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Insert(msgspec.Struct, frozen=True):
    """Inserts a row. If the row exists, the outcome is duplicate for equal values, conflict for others."""

    table: Table
    key: Text | None
    values: Columns


class Upsert(msgspec.Struct, frozen=True):
    """Writes a whole row. The newest version wins, in any order of arrival. `values` holds every column."""

    table: Table
    key: Text | None
    values: Columns
    version: WriteVersion = EVENT


class Merge(msgspec.Struct, frozen=True):
    """Writes some fields. The newest version wins per field: events for different fields never conflict."""

    table: Table
    key: Text | None
    values: Columns
    version: WriteVersion = EVENT


class Increment(msgspec.Struct, frozen=True):
    """Adds to counter columns. A result below `floor` applies `otherwise` instead and ends the handler."""

    table: Table
    key: Text | None
    deltas: Columns
    floor: int | float | Decimal | None = None
    otherwise: "Iterable[Effect]" = ()


class Delete(msgspec.Struct, frozen=True):
    """Deletes a row. Its version is kept, so that a late older event cannot restore the row.

    With `version=None`, the row's own version is kept; a row without a version leaves no tombstone.
    """

    table: Table
    key: Text | None
    version: WriteVersion = EVENT


class Read(msgspec.Struct, frozen=True):
    """`row = yield Read(table, key)`: the current row, locked; None (and no lock) if there is no row."""

    table: Table
    key: Text | None


class Emit(msgspec.Struct, frozen=True):
    """An outgoing event. The same transaction writes it to the outbox. A repeated event emits the same id."""

    topic: Text
    key: Text | None
    type: Text
    data: Any
    version: Version | Text | None = None
    headers: Mapping[Any, Text] = {}


class Call(msgspec.Struct, frozen=True):
    """A side effect, by name or function. The same transaction stores one ledger row per value of `once`."""

    effect: "Text | EffectFunction"
    once: Text | None = None
    args: Mapping[Any, Any] = {}


Write: TypeAlias = Insert | Upsert | Merge | Increment | Delete
Effect: TypeAlias = Write | Read | Emit | Call
ProjectionEffect: TypeAlias = Write | Read


class Rejected(Exception):
    """Raised by a handler: the event can never be applied. It becomes a dead letter."""


class EffectRefused(Exception):
    """Raised where a handler yields an effect that can never be applied. The event becomes a dead letter."""

    frames: tuple[tuple[str, int, str], ...] = ()
    """File, line and function of the `yield`. For `yield from`, the outer frames come first."""


@dataclass(frozen=True)
class Entity:
    """A type of object that events are about. `shards` counts for a new type; later use `sluice reshard`."""

    name: str
    shards: int = 4


@dataclass(frozen=True)
class FieldNames:
    """Fields of plain JSON that replace CloudEvents headers. Without a `data` field, data is the object."""

    event_id: str = "event_id"
    type: str = "type"
    version: str = "version"
    occurred_at: str = "occurred_at"
    data: str = "data"


@dataclass(frozen=True)
class Topic:
    """A Kafka topic whose record keys are keys of `entity`.

    `dedup` sets how a repeated event is recognized. "id": by its event id; a record without an id is a dead
    letter, except for null values. "position": by topic, partition and offset, so every record counts, even
    if a producer sends an event twice.
    """

    name: str
    entity: Entity
    ignores: tuple[str, ...] = ()
    start: Literal["earliest", "latest"] = "earliest"
    on_failure: Literal["park", "skip"] = "park"
    dedup: Literal["id", "position"] = "id"
    fields: FieldNames = FieldNames()
    tombstone_type: str | None = None  # default: <entity type>.deleted
    max_bytes: int = 1_048_576  # a larger value is rejected without decoding


TopicChoice: TypeAlias = Text | Topic | Collection[Text | Topic] | None


class EffectCall(msgspec.Struct, frozen=True):
    """The argument of an effect function. `key` is the idempotency key to pass to the provider."""

    key: str
    args: JsonObject
    attempt: int


class NotSent(Exception):
    """Raised by an effect function: the call was certainly not made and is retried.

    `retry_after` is the pause that the provider requires: seconds, or a timedelta. Such an attempt does not
    count towards `attempts`.
    """

    retry_after: float | timedelta | None = None

    def __init__(self, *args: object, retry_after: float | timedelta | None = None) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class Refused(Exception):
    """Raised by an effect function: the provider refused the call permanently."""


Handler: TypeAlias = Callable[[Event[Any]], Iterator[Effect]]
"""A generator function that takes one event and yields effects. A Read returns the row or None."""
ProjectionHandler: TypeAlias = Callable[[Event[Any]], Iterator[ProjectionEffect]]
"""Yields neither Emit nor Call, so that a type checker reports them before a rebuild does."""
EffectFunction: TypeAlias = Callable[[EffectCall], JsonObject | None]
"""Makes one call outside of every transaction. Returns the provider's answer, or None if there is none."""
H = TypeVar("H", bound=Handler)
P = TypeVar("P", bound=ProjectionHandler)
E = TypeVar("E", bound=EffectFunction)


@dataclass(frozen=True)
class Handles:
    """Attached to a function by `handles`; collected at start, never at import."""

    types: tuple[Text, ...]
    topic: TopicChoice = None


@dataclass(frozen=True)
class Projects:
    """Attached to a function by `projects`."""

    types: tuple[Text, ...]
    into: Table
    revision: int
    topic: TopicChoice = None


Reconcile: TypeAlias = Callable[[EffectCall], JsonObject | None]
"""Asks the provider for the result of a call. Returns the answer, or None if the call was certainly not made.

Raises if the result cannot be determined.
"""


@dataclass(frozen=True)
class EffectDeclaration:
    """Attached to a function by `effect`: how calls are attempted, and what follows an unknown outcome."""

    name: str
    on_unknown: Literal["retry", "ask"]
    timeout_seconds: float
    attempts: int
    key_lifetime_seconds: float | None
    holds: bool
    reconcile: "Reconcile | None" = None


MARK = "__sluice__"  # attribute of a decorated function that holds its declarations


def _mark(function: D, declaration: object) -> D:
    setattr(function, MARK, (*getattr(function, MARK, ()), declaration))
    return function


def handles(*types: Text, topic: TopicChoice = None) -> Callable[[H], H]:
    """Declares a handler for these event types: a pure generator that takes an event and yields effects.

    `topic` limits the handler to events of this topic or these topics. Default: every topic.
    """
    if any(isinstance(one, FunctionType) for one in types):
        raise TypeError('@handles needs the event types, as in @handles("order.placed")')
    return lambda function: _mark(function, Handles(types, topic))


def projects(*types: Text, into: Table, revision: int, topic: TopicChoice = None) -> Callable[[P], P]:
    """Declares a projection handler. It may only write to and Read the table `into`. `topic`: see `handles`.

    Increase `revision` if a change of code changes the rows that the handlers write for an event.
    """
    return lambda function: _mark(function, Projects(types, into, revision, topic))


def effect(
    name: str,
    *,
    on_unknown: Literal["retry", "ask"],
    timeout_seconds: float = 10,
    attempts: int = 8,
    key_lifetime: float | None = None,
    holds: bool = False,
    reconcile: Reconcile | None = None,
) -> Callable[[E], E]:
    """Declares an effect function. "retry" requires `key_lifetime`: the time in seconds that a key is valid.

    `reconcile` asks the provider for the result of a call whose outcome is unknown (`sluice effects
    reconcile`). `holds`: a call that failed or is uncertain holds back later calls of its entity.
    """
    if on_unknown == "retry" and key_lifetime is None:
        raise ValueError(f"effect {name}: on_unknown='retry' requires key_lifetime= in seconds")
    declared = EffectDeclaration(name, on_unknown, timeout_seconds, attempts, key_lifetime, holds, reconcile)
    return lambda function: _mark(function, declared)
