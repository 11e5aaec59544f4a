"""Folds a log in memory, record by record. The result is the state that Postgres has when all
records have outcomes. Pure.

It uses the code of the workers: `decode`, `plan_event`, `fold` and the rules of versioned rows.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from sqlalchemy import Table

from sluice.db.records import LedgerRow, OutboxRow, Outcome
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Write
from sluice.tasks.events.decode import Decoded, decode
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FirstSeen, FoldState
from sluice.tasks.fold.handler_faults import place_of
from sluice.tasks.fold.plan import HandlerRun, Planned, plan_event
from sluice.tasks.fold.registry import Registry
from sluice.tasks.fold.versioned_row import ABSENT, Row, WriteResult


@dataclass(frozen=True)
class Entry:
    """One record of the log and its outcome. `repeats` is True if the same event arrived in an
    earlier record.
    """

    topic: str
    topic_id: str
    partition: int
    record: Record
    outcome: Outcome
    repeats: bool


@dataclass(frozen=True)
class Letter:
    """The failure of an event, or of one projection of the event. `entry` is the event's index in
    the log's entries.

    A letter keeps its number when its event fails again, so numbers order the letters of an entity.
    """

    number: int
    entry: int
    entity: str
    key: str | None
    type: str | None
    outcome: Outcome
    fault: EventFault
    projection: str | None = None
    holds: bool = True
    """Later events of its entity wait behind it."""


@dataclass
class FoldedLog:
    """The state after all records so far. `registry` is the code that folds the next record."""

    registry: Registry
    rows: dict[tuple[Table, str], Row] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    emits: list[OutboxRow] = field(default_factory=list)
    calls: list[LedgerRow] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    numbered: int = 0
    """The number of letters ever created."""
    identities: dict[UUID, FirstSeen] = field(default_factory=dict)
    applied: dict[tuple[str, int], int] = field(default_factory=dict)
    """Topic id and partition → the offset of the last record, as the lanes of Postgres store it."""
    effect_keys: dict[str, UUID | None] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    """A line for each handler that ended at a write without effect."""
    parked: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Entity type → keys of parked entities."""
    held: defaultdict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(dict))
    """Entity type → projection → keys of entities whose events wait in this projection."""

    def copy(self) -> "FoldedLog":
        """Returns an independent copy of the state."""
        return replace(
            self,
            rows=dict(self.rows),
            entries=list(self.entries),
            emits=list(self.emits),
            calls=list(self.calls),
            letters=list(self.letters),
            ends=list(self.ends),
            identities=dict(self.identities),
            applied=dict(self.applied),
            effect_keys=dict(self.effect_keys),
            parked=defaultdict(set, {entity: set(keys) for entity, keys in self.parked.items()}),
            held=defaultdict(dict, {entity: _copied(held) for entity, held in self.held.items()}),
        )

    def take(self, topic: str, topic_id: str, partition: int, record: Record) -> EventResult:
        """Settles one record. A repeat of a record from the same position changes nothing."""
        declared = self.registry.topics[topic]
        decoded = decode(declared, topic_id, partition, record)
        applied = self.applied.get((topic_id, partition), -1)
        if record.offset <= applied and decoded.dedup == "position":
            return EventResult(Planned(decoded), None)
        self.applied[topic_id, partition] = max(applied, record.offset)
        entity = declared.entity.name
        memory = self.memory_of(entity, parked=self.parked[entity])
        result = self.fold_one(decoded, memory)
        if result.outcome is not None:
            self.entries.append(
                Entry(topic, topic_id, partition, record, result.outcome, repeats=result.known)
            )
            self.add_letters(len(self.entries) - 1, result)
        return result

    def memory_of(self, entity: str, *, parked: set[str]) -> FoldState:
        """Returns the state that the fold of one event of this entity type reads and changes."""
        return FoldState(
            no_row,
            no_call,
            on_end=self._note_end,
            rows=self.rows,
            identities=self.identities,
            effect_keys=self.effect_keys,
            parked=parked,
            held=self.held[entity],
        )

    def fold_one(self, decoded: Decoded, memory: FoldState) -> EventResult:
        """Plans and folds one event, and stores its outgoing events and calls."""
        folded = fold([plan_event(self.registry, self.registry.topics[decoded.topic], decoded)], memory)
        self.emits += folded.emits
        self.calls += folded.calls
        return folded.settled[0]

    def _note_end(self, run: HandlerRun, number: int, write: Write, result: WriteResult) -> None:
        at = place_of(run.entry)
        self.ends.append(
            f"{run.event.type} of {run.event.key!r}: {run.entry.function.__name__} ({at.file}:{at.line})"
            f" ended at effect {number}, {type(write).__name__} of {write.table.name} {write.key!r}:"
            f" {result.value}"
        )

    def add_letters(self, entry: int, result: EventResult, again: Letter | None = None) -> None:
        """Stores the letters of a settled event: the letter of the whole event, or letters of projections.

        `again` is the letter that was redriven. The letter stays if the event fails again.
        """
        decoded, outcome = result.planned.decoded, result.outcome
        entity = self.registry.topics[decoded.topic].entity.name
        event = (entry, entity, decoded.entity_key, decoded.type)
        if result.error is not None and outcome is not None:
            holds = outcome is Outcome.WAITING or (outcome is Outcome.DEAD and result.planned.parks)
            number = self._number(again, None)
            self.letters.append(Letter(number, *event, outcome, result.error, holds=holds))
        for one in result.letters:
            number = self._number(again, one.projection)
            self.letters.append(Letter(number, *event, one.outcome, one.fault, one.projection, one.holds))
        if again is not None:
            self.letters.sort(key=lambda letter: letter.number)

    def _number(self, again: Letter | None, projection: str | None) -> int:
        if again is not None and again.projection == projection:
            return again.number
        self.numbered += 1
        return self.numbered


def _copied(held: Mapping[str, set[str]]) -> dict[str, set[str]]:
    return {projection: set(keys) for projection, keys in held.items()}


def no_row(_table: Table, _key: str) -> Row:
    """Returns None: no row exists outside of this memory."""
    return ABSENT


def no_call(_effect_key: str) -> None:
    """Returns None: no call exists outside of this memory."""
