"""The base of the worlds in which tests run handlers, with rows in memory or in Postgres."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from types import ModuleType
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import Table

from sluice.db.records import OutboxRow, Outcome
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Call, Columns, Emit, Topic, Version
from sluice.tasks.events.decode import decode
from sluice.tasks.events.identity import record_identity
from sluice.tasks.fold.registry import Registry, collect_handlers, collect_modules
from sluice.testing.calls import CallResult, Providers
from sluice.testing.incoming import HeaderValues, Incoming, RawRecord, raw_bytes, raw_headers, raw_record
from sluice.testing.written_test import incoming_code

Module: TypeAlias = str | ModuleType
Values: TypeAlias = dict[str, Any]
PARTITION = 0  # all records of a topic are in this partition, so their order is fixed
_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True)
class DeadLetter:
    """An event that was not applied, or not applied to one projection, because it failed,
    conflicts or waits.
    """

    topic: str
    key: str | None
    type: str | None
    outcome: Outcome
    """dead, conflict or waiting."""
    error: str
    """The class of the error and its text."""
    projection: str | None = None
    """The projection to which the event was not applied; the other effects of the event are applied."""
    traceback: str = field(default="", compare=False)
    """The file, line and code of the handler that raised; empty if no handler did."""


@dataclass(frozen=True)
class State:
    """The visible results of a world. Outgoing events and calls are sorted, so the order of
    arrival does not matter.
    """

    rows: Mapping[str, Mapping[str, Values]]
    """Table → key → values."""
    emitted: list[Emit]
    calls: list[Call]


class AnyWorld(ABC):
    """Applies events one by one, each at the next offset of its topic, all in partition 0."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._sent: list[tuple[str, Record]] = []
        self._next_offsets = dict.fromkeys(registry.topics, 0)
        self.script: list[str] = []
        """The actions on the world so far, as code of a test."""

    @abstractmethod
    def given(self, table: Table | str, key: str, values: Columns, version: Version | None = None) -> None:
        """Puts a row into a table, as if an Upsert of this version had written it.

        Columns that are not in `values` get their default. Raises ValueError for a value that its
        column cannot store.
        """

    @abstractmethod
    def rows(self, table: Table | str) -> dict[str, Values]:
        """Returns key → values of all rows, without the key and the columns that Sluice keeps."""

    @property
    @abstractmethod
    def emitted(self) -> list[Emit]:
        """The outgoing events, in the order of their events. A version is an integer or a text."""

    @property
    @abstractmethod
    def calls(self) -> list[Call]:
        """The calls of side effects, in the order of their events. Each call has its effect by name."""

    @property
    @abstractmethod
    def outcomes(self) -> list[Outcome]:
        """The outcome of each record, in the order of sending; a redrive changes it."""

    @property
    @abstractmethod
    def dead_letters(self) -> list[DeadLetter]:
        """The events that are dead, conflict or wait, oldest first. Includes events that were not
        applied only to a projection.
        """

    @abstractmethod
    def redrive(self) -> None:
        """Applies dead letters and the events that wait for them, with the current code of the world."""

    @abstractmethod
    def run_calls(self, provider: Providers = None) -> list[CallResult]:
        """Makes one attempt at each pending call that is not blocked. Returns the attempts.

        `provider` makes the calls: one function for all effects, or a dict from effect to
        function. Without `provider`, the declared effect functions make the calls. A provider
        raises `NotSent`, `Refused` or another error, as an effect function does; an AssertionError
        fails the test.
        """

    @abstractmethod
    def _take(self, topic: str, record: Record) -> Outcome | None:
        """Applies a record. Returns its outcome, None if the record has an outcome already."""

    def row(self, table: Table | str, key: str) -> Values | None:
        """Returns the values of one row, None if there is none."""
        return self.rows(table).get(key)

    @property
    def state(self) -> State:
        """All rows, outgoing events and calls, to compare two worlds."""
        rows = {name: found for name in sorted(self._registry.tables) if (found := self.rows(name))}
        return State(rows, sorted(self.emitted, key=_sorted_json), sorted(self.calls, key=_sorted_json))

    def send(
        self,
        topic: str,
        *,
        key: str | bytes | None,
        type: str | None = None,
        data: Any = None,
        version: Version | None = None,
        id: str | None = None,
        time: datetime | None = None,
        headers: Mapping[str, str | bytes | None] | None = None,
    ) -> Outcome | None:
        """Sends an event and returns its outcome. `Incoming` describes the arguments."""
        more = headers or {}
        return self.send_event(
            Incoming(topic, key=key, type=type, data=data, version=version, id=id, time=time, headers=more)
        )

    def send_event(self, event: Incoming) -> Outcome | None:
        """Does the work of `send` for an `Incoming`."""
        topic = self.topic(event.topic)
        raw = raw_record(topic, event.with_id(f"event-{len(self._sent) + 1}", topic))
        self.script.append(f"send_event({incoming_code(event)})")
        return self._append(topic, raw)

    def send_raw(
        self,
        topic: str,
        key: str | bytes | None,
        value: str | bytes | None,
        headers: HeaderValues = (),
    ) -> Outcome | None:
        """Sends a record unchanged, with any bytes and any headers."""
        raw = RawRecord(raw_bytes("key", key), raw_bytes("value", value), raw_headers(headers))
        self.script.append(f"send_raw({topic!r}, {raw.key!r}, {raw.value!r}, {raw.headers!r})")
        return self._append(self.topic(topic), raw)

    def redeliver(self) -> None:
        """Sends every event again, in the order of sending.

        An event with an id, or of a topic with dedup="natural", is sent as a new record, like a repeat by
        a producer. Another event is delivered from the same offset, like a repeat by a broker. Neither may
        change the result.
        """
        self.script.append("redeliver()")
        for name, record in list(self._sent):
            self._repeat(name, record)

    def repeat_event(self, number: int) -> None:
        """Delivers one sent event again. `number` counts the sent events from 0."""
        self._repeat(*self._sent[number])

    def _repeat(self, topic: str, record: Record) -> None:
        decoded = decode(self._registry.topics[topic], topic_id(topic), PARTITION, record)
        is_of_place = decoded.identity == record_identity(decoded.topic_id, PARTITION, record.offset)
        if is_of_place and not decoded.is_natural:
            self._take(topic, record)
        else:
            self._take(topic, record._replace(offset=self._draw_offset(topic)))

    @property
    def sent_events(self) -> int:
        """Returns the number of sent events, without repeats."""
        return len(self._sent)

    def _append(self, topic: Topic, raw: RawRecord) -> Outcome | None:
        record = Record(self._draw_offset(topic.name), 0, *raw)
        self._sent.append((topic.name, record))
        return self._take(topic.name, record)

    def _draw_offset(self, topic: str) -> int:
        offset = self._next_offsets[topic]
        self._next_offsets[topic] = offset + 1
        return offset

    def topic(self, name: str) -> Topic:
        """Returns a declared topic. Raises ValueError."""
        if name not in self._registry.topics:
            raise ValueError(f"unknown topic {name!r}; declared: {', '.join(sorted(self._registry.topics))}")
        return self._registry.topics[name]

    def _table(self, table: Table | str) -> Table:
        name = table if isinstance(table, str) else table.name
        found = self._registry.tables.get(name)
        if found is None or (found is not table and name is not table):
            known = ", ".join(sorted(self._registry.tables)) or "none"
            raise ValueError(f"unknown table {name!r}; the modules of this world make: {known}")
        return found


def collect(modules: Iterable[Module]) -> Registry:
    """Returns the declarations of modules, given as names or as modules. Raises HandlersRefused."""
    several = list(modules)
    names = [one for one in several if isinstance(one, str)]
    if len(names) == len(several):
        return collect_handlers(",".join(names))
    return collect_modules([import_module(one) if isinstance(one, str) else one for one in several])


def topic_id(topic: str) -> str:
    """Returns the id that a world uses in place of Kafka's id of a topic."""
    return f"id-of-{topic}"


def emit_of(row: OutboxRow) -> Emit:
    """Returns an outgoing event as its handler yielded it, without the headers that Sluice adds."""
    headers = msgspec.json.decode(row.headers, type=dict[str, str])
    version = row.version
    return Emit(
        row.topic,
        row.key,
        row.type,
        msgspec.json.decode(row.payload),
        int(version) if version is not None and _INTEGER.fullmatch(version) else version,
        {name: value for name, value in headers.items() if not name.startswith("ce_")},
    )


def _sorted_json(effect: Emit | Call) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(effect), order="sorted")
