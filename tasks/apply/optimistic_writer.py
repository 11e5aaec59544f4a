"""Settles events on the assumption that all are new and newer than their rows, with four round trips.

The assumption holds for nearly every batch. The exact fold settles the other events in the same transaction,
if they share nothing with the rest. Otherwise the transaction is rolled back, and `BatchWriter` settles the
batch.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Table

from sluice.db.apply import assumed_rows, dead_letters, identities, outgoing
from sluice.db.apply.assumed_rows import AssumingStatements
from sluice.db.apply.rows import RowStatements
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken
from sluice.db.projections.generations import ProjectionSnapshot
from sluice.db.records import LedgerRow, OutboxRow, Outcome, ProcessedRow
from sluice.db.tables import generation_name, shape_of
from sluice.runtime.settings import read_source
from sluice.tasks.apply.batch_writer import CHECK_CONSTRAINTS
from sluice.tasks.apply.chunks import HANDLER_BUDGET_SECONDS
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.fold_io import FoldIO, load_known_places, processed_row
from sluice.tasks.fold.assumed_fold import AssumedFold, fold_assuming, needs_rows, stays_apart
from sluice.tasks.fold.assumed_writes import writes_by_table
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.plan import Planned, touched_rows
from sluice.tasks.fold.sharing import RowPlace, Sharing

MOST_EXACT = 0.5
"""Above this share of events that need the exact fold, all are settled by it."""


class Deviated(Exception):
    """The assumption is wrong, and only a new transaction can settle the batch."""


class Statements:
    """The statements of all tables, made at their first use."""

    def __init__(self) -> None:
        self._made: dict[tuple[Table, str | None], AssumingStatements] = {}

    def of(self, table: Table, snapshot: ProjectionSnapshot) -> AssumingStatements:
        """Returns the statements of a table, or of the live generation of a projection."""
        stored_as = None
        if shape_of(table).projection:
            if table.name not in snapshot.fed:
                raise DeploymentBroken(f"projection {table.name} has no row: run `sluice init`")
            stored_as = generation_name(table.name, snapshot.fed[table.name].generation)
        made = self._made.get((table, stored_as))
        if made is None:
            made = self._made[table, stored_as] = AssumingStatements(RowStatements(table, stored_as))
        return made


class OptimisticWriter:
    """Settles events of one queue in one transaction. The caller holds the queue's lock."""

    def __init__(
        self,
        session: Session,
        statements: Statements,
        *,
        queue: str,
        entity: str,
        snapshot: ProjectionSnapshot,
        erasures: Erasures,
        has_parked: bool,
    ) -> None:
        """Takes the arguments of `BatchWriter`. `has_parked`: entities of the type are parked."""
        self._session = session
        self._statements = statements
        self._queue = queue
        self._entity = entity
        self._snapshot = snapshot
        self._erasures = erasures
        self._has_parked = has_parked

    def settle(self, events: Sequence[Planned]) -> list[EventResult] | None:
        """Settles the events and writes the results. Returns None, and writes nothing, if many need the
        exact fold.

        Raises Deviated, RowsChanged, and what Postgres refuses.
        """
        sharing = Sharing(events)
        apart = self._set_apart(events)
        reading = {number for number, one in enumerate(events) if number not in apart and needs_rows(one)}
        folded = fold_assuming(events, sharing.closure, apart | reading)
        exact_events = [n for n in range(len(events)) if n not in folded.events]
        new = {n: EventResult(events[n], Outcome.APPLIED) for n in exact_events if n not in apart}
        if len(exact_events) - len(new) > MOST_EXACT * len(events):
            return None
        stored = self._note_identities(folded, sharing, new)
        self._write_rows(folded, sharing, events)
        exact = self._settle_exactly(events, folded, stored)
        self._write_outgoing(len(events), folded, exact)
        changed = {table for table, _ in folded.rows} | exact.changed_tables
        self._erasures.tables.note(self._entity, changed, folded.other_tables | exact.other_tables)
        self._session.defer(CHECK_CONSTRAINTS)
        return [
            folded.events[number].result if number in folded.events else exact.results[number]
            for number in range(len(events))
        ]

    def _set_apart(self, events: Sequence[Planned]) -> set[int]:
        """Returns the events whose identities only the exact fold can store."""
        left = self._snapshot.left
        found = {number for number, planned in enumerate(events) if stays_apart(planned, left)}
        known = load_known_places(self._session, events)
        if known:
            found |= {number for number, one in enumerate(events) if one.decoded.identity in known}
        if self._has_parked or self._erasures.may_have(self._entity):
            keys = sorted({p.decoded.entity_key for p in events if p.decoded.entity_key is not None})
            apart = set(self._erasures.erased_keys(self._entity, keys))
            if self._has_parked:
                apart |= dead_letters.load_parked(self._session, self._entity, keys)
            found |= {number for number, one in enumerate(events) if one.decoded.entity_key in apart}
        return found

    def _note_identities(
        self, folded: AssumedFold, sharing: Sharing, reading: Mapping[int, EventResult]
    ) -> list[ProcessedRow]:
        """Stores the identities. Leaves events that are known. Returns the stored rows.

        `reading`: the events that the exact fold will settle, with the expected outcome. If such an event is
        known, it changes nothing here.
        """
        rows = _identity_rows([one.result for one in folded.events.values()])
        # Events that need rows may have the same identity. The exact fold finds the repeats.
        first: dict[UUID, ProcessedRow] = {}
        for row in _identity_rows(list(reading.values())):
            first.setdefault(row.identity, row)
        rows += first.values()
        known = identities.note_new_identities(self._session, rows)
        if known:
            self._leave(
                folded,
                sharing,
                {
                    number
                    for number, one in folded.events.items()
                    if one.result.planned.decoded.identity in known
                },
            )
            rows = [row for row in rows if row.identity not in known]
        return rows

    def _write_rows(self, folded: AssumedFold, sharing: Sharing, events: Sequence[Planned]) -> None:
        """Writes the rows. Leaves events whose rows are not older."""
        refused: set[RowPlace] = set()
        for table, writes in writes_by_table(folded).items():
            of = self._statements.of(table, self._snapshot)
            keys = assumed_rows.write_whole_rows(self._session, of, writes.whole)
            keys += assumed_rows.count_rows(self._session, of, writes.counted)
            keys += assumed_rows.insert_assumed_rows(self._session, of, writes.inserted)
            refused.update((table, key) for key in keys)
        if not refused:
            return
        touching = {n for n in folded.events if not refused.isdisjoint(touched_rows(events[n]))}
        leaving = sharing.closure(touching)
        written = sharing.rows_of(leaving) & folded.rows.keys() - refused
        if written:
            raise Deviated("an event has some rows that are older, and some that are not")
        self._leave(folded, sharing, leaving)

    def _leave(self, folded: AssumedFold, sharing: Sharing, numbers: set[int]) -> None:
        leaving = sharing.closure(numbers)
        folded.leave(leaving, sharing.rows_of(leaving))

    def _settle_exactly(
        self, events: Sequence[Planned], folded: AssumedFold, stored: Sequence[ProcessedRow]
    ) -> "_Exact":
        numbers = [number for number in range(len(events)) if number not in folded.events]
        if not numbers:
            return _Exact({}, {}, {}, set(), set())
        noted = {row.identity: row.outcome for row in stored}
        store = FoldIO(self._session, self._entity, self._snapshot, erasures=self._erasures, noted=noted)
        memory = store.load([events[number] for number in numbers])
        until = time.monotonic() + HANDLER_BUDGET_SECONDS
        settled = fold([events[number] for number in numbers], memory, lambda: time.monotonic() >= until)
        if len(settled.settled) < len(numbers):
            raise Deviated("the handlers that read rows used up their time")
        if not memory.rows.keys().isdisjoint(folded.rows):
            # A handler names further rows after its Read, so the closure has not left their events.
            raise Deviated("a handler that reads rows used a row of another event")
        for one in settled.settled:
            is_stored = one.outcome is not None and one.outcome is not Outcome.ERASED
            if one.gets_identity and one.planned.decoded.identity in noted and not is_stored:
                raise Deviated("an event whose identity was stored has no outcome")
        store.write_state(self._queue, memory, settled)
        emits: dict[int, Sequence[OutboxRow]] = {}
        calls: dict[int, Sequence[LedgerRow]] = {}
        left_emits, left_calls = iter(settled.emits), iter(settled.calls)
        for number, one in zip(numbers, settled.settled, strict=True):
            emits[number] = list(islice(left_emits, one.emitted))
            calls[number] = list(islice(left_calls, one.outgoing - one.emitted))
        results = dict(zip(numbers, settled.settled, strict=True))
        return _Exact(results, emits, calls, store.changed_tables, memory.other_tables)

    def _write_outgoing(self, count: int, folded: AssumedFold, exact: "_Exact") -> None:
        """Writes calls and outgoing events in the order of their events."""
        calls: list[LedgerRow] = []
        emits: list[OutboxRow] = []
        for number in range(count):
            one = folded.events.get(number)
            calls += exact.calls.get(number, ()) if one is None else one.calls
            emits += exact.emits.get(number, ()) if one is None else one.emits
        erased = self._erasures.stand_ins([call.effect_key for call in calls])
        if erased and outgoing.load_effects(self._session, sorted(erased)):
            raise Deviated("a call was made before its entity was erased")
        outgoing.insert_effects(self._session, self._entity, calls)
        outgoing.insert_outbox(self._session, self._queue, emits, read_source())


def _identity_rows(results: Sequence[EventResult]) -> list[ProcessedRow]:
    return [
        processed_row(one, one.outcome) for one in results if one.outcome is not None and one.gets_identity
    ]


class _Exact(NamedTuple):
    """What the exact fold returned, by the numbers of its events, and the tables that it wrote."""

    results: Mapping[int, EventResult]
    emits: Mapping[int, Sequence[OutboxRow]]
    calls: Mapping[int, Sequence[LedgerRow]]
    changed_tables: set[Table]
    other_tables: set[Table]
    """Tables that were written under a key other than the event's."""
