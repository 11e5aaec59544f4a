"""What a fold knows, and what it comes to: rows and identities in memory, outcomes, rows to write. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import Table

from sluice.db.records import LedgerRow, OutboxRow, Outcome
from sluice.tasks.api import Effect
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.plan import HandlerRun, Planned
from sluice.tasks.fold.versioned_row import Row

T = TypeVar("T")

RecordPlace: TypeAlias = tuple[str, int, int]
"""Where a record stands: topic id, partition, offset."""

TAKEN = frozenset({Outcome.APPLIED, Outcome.STALE, Outcome.DUPLICATE, Outcome.IGNORED})
"""Outcomes of events that live applied, whatever came of it: every generation applies these, no others."""


class Conflict(Exception):
    """The event contradicts what is there: same identity or version, other content."""


class Waiting(Exception):
    """The event waits behind a dead letter of its entity."""


class LoadFailed(Exception):
    """Loading a row or an effect key failed: the fault of the database, not of the event that needs it."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FirstSeen(NamedTuple):
    """Where and with what an identity was first seen."""

    data_hash: UUID
    topic_id: str
    partition: int
    offset: int


class ProjectionLetter(NamedTuple):
    """Why one projection did not take an event: it died or conflicts there, or waits for one that did."""

    projection: str
    outcome: Outcome
    fault: EventFault
    holds: bool
    """Later events of its entity wait behind it, for this projection alone."""

    @property
    def failed(self) -> bool:
        """Returns True unless it waits for another one."""
        return self.outcome is not Outcome.WAITING


@dataclass(slots=True)
class EventResult:
    """One record with its outcome; None where the very same record was settled before: counted then."""

    planned: Planned
    outcome: Outcome | None
    error: EventFault | None = None
    first: FirstSeen | None = None
    """Where its identity was seen before; None if it is new."""
    call_conflicts: int = 0
    outgoing: int = 0
    """Rows for others that it wrote: events and calls."""
    set_aside: bool = False
    """It waits for itself, not behind another one: it is retried without an operator."""
    letters: Sequence[ProjectionLetter] = ()
    """Of the projections that did not take it, although it was applied."""

    @property
    def is_taken(self) -> bool:
        """Returns True if live applied it now: then every generation applies it, too."""
        return self.outcome in TAKEN and not self.known

    @property
    def known(self) -> bool:
        """Returns True if its identity has a row already, so that it gets none."""
        return self.first is not None


@dataclass(slots=True)
class FoldState:
    """What the fold knows and makes: rows, identities and effect keys, loaded when first asked for."""

    load_row: Callable[[Table, str], Row]
    load_effect: Callable[[str], UUID | None]
    refuse: Callable[[HandlerRun, Effect], None] | None = None
    """Raises for an effect that must not be here: a rebuild says so once more."""
    rows: dict[tuple[Table, str], Row] = field(default_factory=dict)
    identities: dict[UUID, FirstSeen] = field(default_factory=dict)
    effect_keys: dict[str, UUID | None] = field(default_factory=dict)
    parked: set[str] = field(default_factory=set)
    """Keys of parked entities, of the one entity type that is folded."""
    held: dict[str, set[str]] = field(default_factory=dict)
    """Projection → keys of entities whose events wait for it alone."""
    left: Set[str] = frozenset()
    """Projections that are not folded: nothing is fed to their live generation."""
    faults: Mapping[str, EventFault] = field(default_factory=dict)
    """Projection → why Postgres refuses what it makes of the one event that is folded."""
    erased: Collection[RecordPlace] = ()
    """Records of erased entities: they are passed over."""
    other_tables: set[Table] = field(default_factory=set)
    """Tables with a write whose key is not that of the event."""

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
        except Exception as cause:
            raise LoadFailed(cause) from cause


@dataclass(slots=True)
class FoldResult:
    """What a sequence of events comes to; the rows are in the memory it was folded into."""

    settled: list[EventResult] = field(default_factory=list)
    emits: list[OutboxRow] = field(default_factory=list)
    calls: list[LedgerRow] = field(default_factory=list)
    call_conflicts: list[LedgerRow] = field(default_factory=list)
    parked: list[tuple[str, str]] = field(default_factory=list)
    """Entities that were parked: key and reason."""

    def bury(self, planned: Planned, error: EventFault, memory: FoldState) -> EventResult:
        """The event is dead; its entity is parked if it has one and the topic says so."""
        key = planned.decoded.entity_key
        if key is not None and planned.parks:
            memory.parked.add(key)
            self.parked.append((key, str(error)))
        self.settled.append(EventResult(planned, Outcome.DEAD, error))
        return self.settled[-1]

    def set_aside(self, planned: Planned, error: EventFault, memory: FoldState) -> EventResult:
        """The event waits; its entity is parked if it has one, whatever the topic says: its order is kept."""
        key = planned.decoded.entity_key
        if key is not None:
            memory.parked.add(key)
            self.parked.append((key, f"retrying: {error}"))
        self.settled.append(EventResult(planned, Outcome.WAITING, error, set_aside=True))
        return self.settled[-1]
