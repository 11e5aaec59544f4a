"""The state and the result of a fold: rows and identities in memory, outcomes, rows to write. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import Table

from sluice.db.records import LedgerRow, OutboxRow, Outcome
from sluice.tasks.api import Effect, Write
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.plan import HandlerRun, Planned
from sluice.tasks.fold.versioned_row import Row, WriteResult

T = TypeVar("T")

RecordPlace: TypeAlias = tuple[str, int, int]
"""The place of a record: topic id, partition, offset."""

TAKEN = frozenset({Outcome.APPLIED, Outcome.STALE, Outcome.DUPLICATE, Outcome.IGNORED})
"""Outcomes of events that a worker applied, with or without effect. Generations apply these events only."""


class Conflict(Exception):
    """The event contradicts stored data: same identity or version, different content."""


class Waiting(Exception):
    """The event waits behind a dead letter of its entity."""


class LoadFailed(Exception):
    """Loading a row or an effect key failed. The database is at fault, not the event."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FirstSeen(NamedTuple):
    """The place and the content with which an identity was first seen."""

    data_hash: UUID
    topic_id: str
    partition: int
    offset: int


class ProjectionLetter(NamedTuple):
    """The reason why a projection did not apply an event: death, conflict, or a wait for an earlier event."""

    projection: str
    outcome: Outcome
    fault: EventFault
    holds: bool
    """True if later events of the entity wait behind this letter, for this projection only."""

    @property
    def failed(self) -> bool:
        """Returns False if the event only waits for an earlier event."""
        return self.outcome is not Outcome.WAITING


class EventResult(msgspec.Struct):
    """One record with its outcome. The outcome is None if the same record was settled and counted before."""

    planned: Planned
    outcome: Outcome | None
    error: EventFault | None = None
    first: FirstSeen | None = None
    """The record in which the event's identity was first seen; None if the identity is new."""
    call_conflicts: int = 0
    outgoing: int = 0
    """Number of outbox events and calls that the event wrote."""
    emitted: int = 0
    """Number of outbox events among them."""
    set_aside: bool = False
    """True if the event itself was set aside, and is retried automatically."""
    letters: Sequence[ProjectionLetter] = ()
    """Letters of projections that did not apply the event, although the other tables did."""

    @property
    def is_taken(self) -> bool:
        """Returns True if this fold applied the event. Every generation then applies it too."""
        return self.outcome in TAKEN and not self.known

    @property
    def known(self) -> bool:
        """Returns True if the event's identity, or for a natural topic its letter, is already stored."""
        return self.first is not None

    @property
    def gets_identity(self) -> bool:
        """Returns True if the event's identity is new and is stored."""
        return self.first is None and self.planned.decoded.stores_identity


@dataclass(slots=True)
class FoldState:
    """The fold's rows, identities and effect keys. A missing row or effect key is loaded when needed."""

    load_row: Callable[[Table, str], Row]
    load_effect: Callable[[str], UUID | None]
    refuse: Callable[[HandlerRun, Effect], None] | None = None
    """A second check of effects, for rebuilds. Raises for an effect that is not allowed."""
    on_end: Callable[[HandlerRun, int, Write, WriteResult], None] | None = None
    """Only tests set it. Called with each write that changes nothing and therefore ends its handler, and with
    the number of the write.
    """
    rows: dict[tuple[Table, str], Row] = field(default_factory=dict)
    identities: dict[UUID, FirstSeen] = field(default_factory=dict)
    """Identity → the first record of the event. If the topic has dedup="natural", this contains only records
    that have letters.
    """
    effect_keys: dict[str, UUID | None] = field(default_factory=dict)
    parked: set[str] = field(default_factory=set)
    """Keys of parked entities of the entity type that is folded."""
    held: dict[str, set[str]] = field(default_factory=dict)
    """Projection → keys of entities whose events wait for this projection only."""
    left: Set[str] = frozenset()
    """Projections that are not folded because their live generation is not fed."""
    faults: Mapping[str, EventFault] = field(default_factory=dict)
    """Projection → the reason why Postgres refuses the writes of the only event to this projection."""
    erased: Collection[RecordPlace] = ()
    """Places of the records of erased entities. The fold passes over these records."""
    other_tables: set[Table] = field(default_factory=set)
    """Tables that were written under a key other than the event's."""

    def row(self, table: Table, key: str) -> Row:
        """Returns the current row."""
        place = (table, key)
        if place not in self.rows:
            self.rows[place] = self._load(lambda: self.load_row(table, key))
        return self.rows[place]

    def fingerprint(self, effect_key: str) -> UUID | None:
        """Returns the fingerprint of an effect key, None if the key is free."""
        if effect_key not in self.effect_keys:
            self.effect_keys[effect_key] = self._load(lambda: self.load_effect(effect_key))
        return self.effect_keys[effect_key]

    def _load(self, load: Callable[[], T]) -> T:
        try:
            return load()
        except Exception as cause:
            raise LoadFailed(cause) from cause


@dataclass(slots=True)
class FoldResult:
    """The result of folding a sequence of events. The rows are in the FoldState."""

    settled: list[EventResult] = field(default_factory=list)
    emits: list[OutboxRow] = field(default_factory=list)
    calls: list[LedgerRow] = field(default_factory=list)
    call_conflicts: list[LedgerRow] = field(default_factory=list)
    parked: list[tuple[str, str]] = field(default_factory=list)
    """Entities that were parked: key and reason."""

    def bury(self, planned: Planned, error: EventFault, memory: FoldState) -> EventResult:
        """Makes the event a dead letter. Parks its entity, if it has one and the topic requires it."""
        key = planned.decoded.entity_key
        if key is not None and planned.parks:
            memory.parked.add(key)
            self.parked.append((key, str(error)))
        self.settled.append(EventResult(planned, Outcome.DEAD, error))
        return self.settled[-1]

    def set_aside(self, planned: Planned, error: EventFault, memory: FoldState) -> EventResult:
        """Makes the event wait. Parks its entity, if it has one, in every topic, to keep the order."""
        key = planned.decoded.entity_key
        if key is not None:
            memory.parked.add(key)
            self.parked.append((key, f"retrying: {error}"))
        self.settled.append(EventResult(planned, Outcome.WAITING, error, set_aside=True))
        return self.settled[-1]
