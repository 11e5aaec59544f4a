"""Loads identities, effects, letters and rows for the worker's fold from Postgres, and writes them back."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from types import MappingProxyType
from uuid import UUID

import psycopg2
from sqlalchemy import Table

from sluice.db.apply import dead_letters, identities, outgoing
from sluice.db.apply.projection_letters import insert_projection_letters, load_held
from sluice.db.connection import Session
from sluice.db.errors import QUERY_CANCELED
from sluice.db.projections.generations import ProjectionSnapshot, SyncedGeneration
from sluice.db.records import Outcome, ProcessedRow
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.runtime.settings import read_source
from sluice.tasks.apply.erasures import Erasures, place_of
from sluice.tasks.apply.letter_rows import dead_letter_row, projection_letter_row
from sluice.tasks.apply.row_store import AbsentKeyLocks, RowStore
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.decision import effect_key
from sluice.tasks.fold.fold_state import EventResult, FirstSeen, FoldResult, FoldState, RecordPlace
from sluice.tasks.fold.plan import Planned, called_effects


class LetterNotStored(Exception):
    """Raised if Postgres lacks the time or the resources to store one dead letter.

    The caller then stores the letter without the record's value.
    """

    def __init__(self, error: psycopg2.Error) -> None:
        super().__init__(str(error))
        self.pgcode = error.pgcode


class FoldIO:
    """The I/O around one fold: `load`, then the fold, then `write_back`, in one transaction."""

    def __init__(
        self,
        session: Session,
        entity: str,
        snapshot: ProjectionSnapshot,
        redriving: bool = False,
        *,
        erasures: Erasures,
        held: Mapping[str, Set[str]] = MappingProxyType({}),
        faults: Mapping[str, EventFault] = MappingProxyType({}),
        locks: AbsentKeyLocks | None = None,
        cut_letters: bool = False,
        noted: Mapping[UUID, Outcome] = MappingProxyType({}),
    ) -> None:
        """`entity` is the entity type of all events. For `snapshot` and `redriving` see `BatchWriter`.

        `held`: projection → keys of entities whose events began, in this transaction, to wait for the
        projection. `faults`: projection → the reason why Postgres refuses the writes of the only event to the
        projection. `locks` are the key locks of the transaction. `cut_letters`: store letters without the
        values of their records. `noted`: the identities of these events that this transaction has stored,
        with the stored outcomes.
        """
        self._noted = noted
        self._erasures = erasures
        self._session = session
        self._entity = entity
        self._snapshot = snapshot
        self._redriving = redriving
        self._held = held
        self._faults = faults
        self._rows = RowStore(session, {name: one.generation for name, one in snapshot.fed.items()}, locks)
        self._cut_letters = cut_letters
        self._renewed: list[UUID] = []
        """Identities of events that were applied long ago and are repeated now."""

    @property
    def written_tables(self) -> set[str]:
        """Names of the tables whose rows `write_back` wrote."""
        return self._rows.written_tables

    @property
    def changed_tables(self) -> set[Table]:
        """The declared tables whose rows `write_back` wrote or deleted."""
        return self._rows.changed_tables

    def load(self, events: Sequence[Planned]) -> FoldState:
        """Loads the identities, effect keys and locked rows that these events are known to need."""
        memory = FoldState(
            self._rows.load_row, self._load_effect, left=self._snapshot.left, faults=self._faults
        )
        new = {planned.decoded.identity for planned in events if planned.decoded.stores_identity}
        wanted = list(new - self._noted.keys())
        own = {p.decoded.identity: place_of(p.decoded) for p in events} if self._redriving else {}
        for identity, *where, is_old in identities.load_identities(self._session, wanted) if wanted else ():
            known = FirstSeen(*where)
            # A redriven letter has an identity row that marks it as dead or waiting. It is not a repeat.
            if own.get(identity) != known[1:]:
                memory.identities[identity] = known
                if is_old:
                    self._renewed.append(identity)
        keys = sorted({p.decoded.entity_key for p in events if p.decoded.entity_key is not None})
        if not self._redriving:
            memory.identities |= load_known_places(self._session, events)
            memory.parked = dead_letters.load_parked(self._session, self._entity, keys)
            if self._erasures.may_have(self._entity):
                memory.erased = self._find_erased(events, memory)
        memory.held = {name: set(of) for name, of in self._held.items()}
        for name, synced in self._snapshot.fed.items():
            if synced.has_letters:
                found = load_held(self._session, name, synced.generation, self._entity, keys)
                memory.held.setdefault(name, set()).update(found)
        # Events of a parked entity wait in any case. Their rows are not needed, and another session may have
        # locked the rows.
        fresh = [
            planned
            for planned in events
            if planned.decoded.identity not in memory.identities
            and planned.decoded.entity_key not in memory.parked
            and (not memory.erased or place_of(planned.decoded) not in memory.erased)
        ]
        self._load_effects(fresh, memory)
        memory.rows = self._rows.load(fresh, memory.left)
        return memory

    def _find_erased(self, events: Sequence[Planned], memory: FoldState) -> set[RecordPlace]:
        first = {identity: seen[1:] for identity, seen in memory.identities.items()}
        known = [(one.decoded, first.get(one.decoded.identity)) for one in events]
        places = self._erasures.find(self._entity, known)
        erased = {one.identity for one, _ in known if place_of(one) in places}
        # A repeat does not reset the age of an erased event.
        self._renewed = [identity for identity in self._renewed if identity not in erased]
        return places

    def write_back(self, queue: str, memory: FoldState, folded: FoldResult) -> None:
        """Writes everything that a fold changed. Raises RowsChanged and errors of Postgres.

        For redriven events, it writes no identities, and no letters except those of projections.
        """
        self.write_state(queue, memory, folded)
        outgoing.insert_effects(self._session, self._entity, folded.calls)
        outgoing.insert_outbox(self._session, queue, folded.emits, read_source())

    def write_state(self, queue: str, memory: FoldState, folded: FoldResult) -> None:
        """Writes what `write_back` writes, except the outgoing events and the calls."""
        self._rows.write(memory.rows)
        outgoing.insert_call_conflicts(self._session, folded.call_conflicts)
        self._write_projection_letters(folded.settled)
        if self._redriving:
            return
        self._write_letters(queue, [s for s in folded.settled if s.error is not None])
        reasons = [(key, printable(reason)[:MAX_ERROR_CHARACTERS]) for key, reason in folded.parked]
        dead_letters.park_entities(self._session, self._entity, queue, reasons)
        new = [
            processed_row(s, s.outcome) for s in folded.settled if s.outcome is not None and s.gets_identity
        ]
        if self._noted:
            changed = [row for row in new if self._noted.get(row.identity, row.outcome) != row.outcome]
            identities.update_outcomes(
                self._session, [(row.identity, row.outcome, *row[5:]) for row in changed]
            )
            new = [row for row in new if row.identity not in self._noted]
        identities.insert_identities(self._session, new)
        identities.renew_identities(self._session, self._renewed)

    def _write_letters(self, queue: str, settled: Sequence[EventResult]) -> None:
        letters = [dead_letter_row(one, cut=self._cut_letters) for one in settled]
        with storing_letters(len(letters), cut=self._cut_letters):
            dead_letters.insert_dead_letters(self._session, queue, self._entity, letters)

    def _write_projection_letters(self, settled: Sequence[EventResult]) -> None:
        if any(one.letters for one in settled):
            with storing_letters(len(settled), cut=self._cut_letters):
                for synced in self._snapshot.fed.values():
                    store_letters(self._session, synced, self._entity, settled, cut=self._cut_letters)

    def _load_effects(self, events: Sequence[Planned], memory: FoldState) -> None:
        keys = {
            effect_key(run, planned.decoded, ordinal, call)
            for planned in events
            for run, ordinal, call in called_effects(planned)
        }
        if keys:
            memory.effect_keys.update(dict.fromkeys(keys))
            memory.effect_keys.update(self._load_known_effects(keys))

    def _load_effect(self, key: str) -> UUID | None:
        return self._load_known_effects([key]).get(key)

    def _load_known_effects(self, keys: Collection[str]) -> dict[str, UUID]:
        """Returns key → fingerprint for the keys that a call already has, even if the call was erased."""
        stand_ins = self._erasures.stand_ins(keys)
        found = outgoing.load_effects(self._session, sorted([*keys, *stand_ins]))
        return {stand_ins.get(key, key): fingerprint for key, fingerprint in found.items()}


def load_known_places(session: Session, events: Sequence[Planned]) -> dict[UUID, FirstSeen]:
    """Returns those events of natural topics that have letters, by the identities of their places.

    No identity shows that such an event was read before. If its record is read again after a forced
    re-routing, the letter shows that an operator dropped the event.
    """
    natural = {place_of(one.decoded): one.decoded for one in events if one.decoded.is_natural}
    if not natural:
        return {}
    found = dead_letters.load_letter_places(session, natural.keys())
    return {
        one.identity: FirstSeen(one.data_hash, *place)
        for place, letter in found.items()
        if (one := natural[place]).record.timestamp_ms == letter.timestamp_ms
    }


def processed_row(settled: EventResult, outcome: Outcome) -> ProcessedRow:
    """Returns the identity row of an event. For an erased event it omits the id, which may hold the key."""
    decoded = settled.planned.decoded
    return ProcessedRow(
        decoded.identity,
        None if outcome is Outcome.ERASED else decoded.event_id,
        decoded.data_hash,
        outcome,
        decoded.topic,
        decoded.topic_id,
        decoded.partition,
        decoded.record.offset,
    )


@contextmanager
def storing_letters(events: int, *, cut: bool) -> Iterator[None]:
    """Raises LetterNotStored if Postgres cannot store the letters of a single event whole."""
    try:
        yield
    except psycopg2.Error as error:
        if events == 1 and not cut and _is_too_large(error):
            raise LetterNotStored(error) from None
        raise


def store_letters(
    session: Session, synced: SyncedGeneration, entity: str, settled: Sequence[EventResult], *, cut: bool
) -> None:
    """Stores the letters of one generation, in the order of the events."""
    rows = [
        projection_letter_row(one.planned.decoded, letter, cut=cut)
        for one in settled
        for letter in one.letters
        if letter.projection == synced.projection
    ]
    insert_projection_letters(session, synced.projection, synced.generation, entity, rows)


def _is_too_large(error: psycopg2.Error) -> bool:
    code = error.pgcode or ""
    return code == QUERY_CANCELED or code[:2] in ("53", "54")
