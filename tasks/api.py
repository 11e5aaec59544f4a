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
"""Column → value. A column is given as its name, as `orders.c.status`, or as an Enum member."""
Text: TypeAlias = str | Enum
"""A string, or an Enum member whose value is a string."""
Version: TypeAlias = int | datetime
"""An integer that fits 64 bits, or an aware datetime (kept as microseconds)."""


class EventVersion:
    """Type of `EVENT`: the version of the event itself."""

    def __repr__(self) -> str:
        return "EVENT"


EVENT = EventVersion()
"""Default of `version=`: the version of the event. An event without a version is rejected."""

WriteVersion: TypeAlias = Version | EventVersion | None


class Event(msgspec.Struct, Generic[D], frozen=True):
    """One decoded event. `headers` are the headers of the record, without the CloudEvents headers."""

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
    """Inserts a row. If the row exists, equal values are a duplicate, others a conflict."""

    table: Table
    key: Text | None
    values: Columns


class Upsert(msgspec.Struct, frozen=True):
    """Writes a whole row. The newest version wins, even if it arrives first. `values` holds every column."""

    table: Table
    key: Text | None
    values: Columns
    version: WriteVersion = EVENT


class Merge(msgspec.Struct, frozen=True):
    """Writes some fields. The newest version wins per field. Events for different fields never conflict."""

    table: Table
    key: Text | None
    values: Columns
    version: WriteVersion = EVENT


class Increment(msgspec.Struct, frozen=True):
    """Adds to counters. If a sum would be below `floor`, applies `otherwise` instead and ends the handler."""

    table: Table
    key: Text | None
    deltas: Columns
    floor: int | float | Decimal | None = None
    otherwise: "Iterable[Effect]" = ()


class Delete(msgspec.Struct, frozen=True):
    """Deletes a row. Keeps the version of the Delete, so that a late older event cannot restore the row.

    With `version=None`, the version of the row, if it has one, is kept instead.
    """

    table: Table
    key: Text | None
    version: WriteVersion = EVENT


class Read(msgspec.Struct, frozen=True):
    """`row = yield Read(table, key)` locks and returns the row. Without a row, returns None, with no lock."""

    table: Table
    key: Text | None


class Emit(msgspec.Struct, frozen=True):
    """An outgoing event, stored in the incoming event's transaction. The id is derived from that event."""

    topic: Text
    key: Text | None
    type: Text
    data: Any
    version: Version | Text | None = None
    headers: Mapping[Any, Text] = {}


class Call(msgspec.Struct, frozen=True):
    """A side effect, given by name or function. Only one call is stored per value of `once`."""

    effect: "Text | EffectFunction"
    once: Text | None = None
    args: Mapping[Any, Any] = {}


Write: TypeAlias = Insert | Upsert | Merge | Increment | Delete
Effect: TypeAlias = Write | Read | Emit | Call
ProjectionEffect: TypeAlias = Write | Read


class Rejected(Exception):
    """Raised by a handler if its event can never be applied. The event becomes a dead letter."""


class EffectRefused(Exception):
    """Raised at the `yield` of an effect that can never be applied. The event becomes a dead letter."""

    frames: tuple[tuple[str, int, str], ...] = ()
    """File, line and function of the `yield`. For `yield from`, the outer frames come first."""


@dataclass(frozen=True)
class Entity:
    """A type of object that events are about. `shards` is for a new type; later, use `sluice reshard`."""

    name: str
    shards: int = 4


@dataclass(frozen=True)
class FieldNames:
    """Field names of plain JSON. Without a field `data`, the data is the whole object."""

    event_id: str = "event_id"
    type: str = "type"
    version: str = "version"
    occurred_at: str = "occurred_at"
    data: str = "data"


@dataclass(frozen=True)
class Topic:
    """A Kafka topic whose record keys are keys of `entity`.

    `dedup` sets how a repeated event is recognised. "id": by its event id. A record with a value but no id
    becomes a dead letter. "position": by topic, partition and offset; every record then counts. "natural":
    not at all; handlers then yield only Upsert, Merge and Delete with a version, so repeats change nothing.
    """

    name: str
    entity: Entity
    ignores: tuple[str, ...] = ()
    start: Literal["earliest", "latest"] = "earliest"
    on_failure: Literal["park", "skip"] = "park"
    dedup: Literal["id", "position", "natural"] = "id"
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

    `retry_after` is the pause that the provider requires: seconds, or a timedelta. An attempt with
    `retry_after` does not count towards `attempts`.
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
"""Yields neither Emit nor Call. A type checker reports them before a rebuild refuses them."""
EffectFunction: TypeAlias = Callable[[EffectCall], JsonObject | None]
"""Makes one call outside of every transaction. Returns the provider's answer, or None if there is none."""
H = TypeVar("H", bound=Handler)
P = TypeVar("P", bound=ProjectionHandler)
E = TypeVar("E", bound=EffectFunction)


@dataclass(frozen=True)
class Handles:
    """The declaration that `handles` attaches to a function. It is collected at start, never at import."""

    types: tuple[Text, ...]
    topic: TopicChoice = None


@dataclass(frozen=True)
class Projects:
    """The declaration that `projects` attaches to a function."""

    types: tuple[Text, ...]
    into: Table
    revision: int
    topic: TopicChoice = None


Reconcile: TypeAlias = Callable[[EffectCall], JsonObject | None]
"""Returns the provider's result of a call, None if the call was certainly not made. Raises if unknown."""


@dataclass(frozen=True)
class EffectDeclaration:
    """The declaration that `effect` attaches to a function: rules for attempts and unknown outcomes."""

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
    """Declares a projection handler, which may only write and Read the table `into`. `topic`: see `handles`.

    Increase `revision` if the changed code writes other rows for the same events.
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
    """Declares an effect function. "retry" requires `key_lifetime`: for how many seconds a key is valid.

    `reconcile` asks the provider for the result of a call whose outcome is unknown (`sluice effects
    reconcile`). `holds`: a failed or uncertain call holds back later calls of its entity.
    """
    if on_unknown == "retry" and key_lifetime is None:
        raise ValueError(f"effect {name}: on_unknown='retry' requires key_lifetime= in seconds")
    declared = EffectDeclaration(name, on_unknown, timeout_seconds, attempts, key_lifetime, holds, reconcile)
    return lambda function: _mark(function, declared)
