"""Between the fold and Postgres: loads what the fold will ask for, writes back what it changed."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Table

from db import dead_letters, identities, ledger, outbox, parking, rows
from db.records import DeadLetterRow, ProcessedRow
from db.session import Session
from db.tables import FIELD_VERSIONS, INSERTED_HASH, VERSION, shape_of
from tasks.fold import effect_key
from tasks.folded import Folded, Known, Memory, Outcome, Settled
from tasks.handlers import Registry
from tasks.plan import Planned, called_effects, touched_rows
from tasks.rows import Row

MAX_ERROR_CHARACTERS = 2_000  # of an error's text in a dead letter


class Store:
    """The shell around one fold: `load`, then the fold, then `write_back`, in one transaction."""

    def __init__(self, session: Session, registry: Registry, entity: str, redriving: bool = False) -> None:
        """`entity` is the entity type of all events; `redriving` see `Settler.settle`."""
        self._session = session
        self._entity = entity
        self._redriving = redriving
        self._effects = frozenset(registry.effects)
        self._statements: dict[Table, rows.RowStatements] = {}
        self._loaded: dict[tuple[Table, str], Row] = {}

    def load(self, events: Sequence[Planned]) -> Memory:
        """Identities, effect keys and locked rows that these events are known to need."""
        self._loaded = {}
        memory = Memory(self._load_row, self._load_effect, self._effects)
        wanted = list({planned.decoded.identity for planned in events})
        own = {p.decoded.identity: _place(p) for p in events} if self._redriving else {}
        for identity, *where in identities.load_identities(self._session, wanted):
            known = Known(*where)
            # Its own row says that it died or waits. That is what is to change.
            if own.get(identity) != known[1:]:
                memory.identities[identity] = known
        if not self._redriving:
            of = {p.decoded.entity_key for p in events if p.decoded.entity_key is not None}
            memory.parked = parking.load_parked(self._session, self._entity, sorted(of))
        fresh = [planned for planned in events if planned.decoded.identity not in memory.identities]
        self._load_effects(fresh, memory)
        keys: defaultdict[Table, set[str]] = defaultdict(set)
        for planned in fresh:
            for table, key in touched_rows(planned):
                keys[table].add(key)
        for table in sorted(keys, key=lambda table: table.name):
            memory.rows.update(self._load_table(table, sorted(keys[table])))
        return memory

    def write_back(self, queue: str, memory: Memory, folded: Folded) -> None:
        """Writes all that a fold changed. Raises RowsChanged, or what Postgres refuses.

        Of redriven events it writes no letters and no identities.
        """
        changed: defaultdict[Table, dict[str, Row]] = defaultdict(dict)
        for (table, key), row in memory.rows.items():
            if row is not self._loaded[table, key]:
                changed[table][key] = row
        for table in sorted(changed, key=lambda table: table.name):
            self._write_table(table, changed[table])
        outbox.insert_outbox(self._session, queue, folded.emits)
        ledger.insert_effects(self._session, self._entity, folded.calls)
        ledger.insert_call_conflicts(self._session, folded.call_conflicts)
        if self._redriving:
            return
        letters = [_letter(settled) for settled in folded.settled if settled.error is not None]
        dead_letters.insert_dead_letters(self._session, queue, self._entity, letters)
        reasons = [(key, printable(reason)[:MAX_ERROR_CHARACTERS]) for key, reason in folded.parked]
        parking.park_entities(self._session, self._entity, queue, reasons)
        new = [processed_row(s, s.outcome) for s in folded.settled if s.outcome is not None and not s.known]
        identities.insert_identities(self._session, new)

    def _load_effects(self, events: Sequence[Planned], memory: Memory) -> None:
        keys = {
            effect_key(run, planned.decoded, ordinal, call)
            for planned in events
            for run, ordinal, call in called_effects(planned)
        }
        if keys:
            memory.effect_keys.update(dict.fromkeys(keys))
            memory.effect_keys.update(ledger.load_effects(self._session, sorted(keys)))

    def _load_effect(self, key: str) -> UUID | None:
        return ledger.load_effects(self._session, [key]).get(key)

    def _load_row(self, table: Table, key: str) -> Row:
        return self._load_table(table, [key])[table, key]

    def _load_table(self, table: Table, keys: Sequence[str]) -> dict[tuple[Table, str], Row]:
        statements = self._statements.setdefault(table, rows.RowStatements(table))
        shape = shape_of(table)
        found = {row[shape.key]: row for row in rows.load_rows(self._session, statements, keys)}
        tombstones: dict[str, int] = {}
        if shape.deletable:
            absent = [key for key in keys if key not in found]
            if absent:
                rows.lock_absent_keys(self._session, table, absent)
                found |= {row[shape.key]: row for row in rows.load_rows(self._session, statements, absent)}
            tombstones = rows.load_tombstones(self._session, table, keys)
        loaded = {(table, key): _row(table, found.get(key), tombstones.get(key)) for key in keys}
        self._loaded.update(loaded)
        return loaded

    def _write_table(self, table: Table, changed: dict[str, Row]) -> None:
        statements = self._statements[table]
        gone: list[str] = []
        updated: list[rows.Document] = []
        inserted: list[rows.Document] = []
        tombstones: dict[str, int] = {}
        for key, row in sorted(changed.items()):
            before = self._loaded[table, key]
            if row.tombstone is not None and row.tombstone != before.tombstone:
                tombstones[key] = row.tombstone
            if row.values is None:
                if before.values is not None:
                    gone.append(key)
            else:
                (inserted if before.values is None else updated).append(_document(table, key, row))
        if gone:
            rows.delete_rows(self._session, statements, gone)
        if updated:
            rows.update_rows(self._session, statements, updated)
        if inserted:
            rows.insert_rows(self._session, statements, inserted)
        rows.write_tombstones(self._session, table, tombstones)


def _place(planned: Planned) -> tuple[str, int, int]:
    decoded = planned.decoded
    return decoded.topic_id, decoded.partition, decoded.record.offset


def _row(table: Table, loaded: dict[str, Any] | None, tombstone: int | None) -> Row:
    if loaded is None:
        return Row(tombstone=tombstone)
    values = {name: rows.readable(loaded[name]) for name in shape_of(table).row_columns}
    return Row(values, loaded[VERSION], loaded.get(FIELD_VERSIONS) or {}, loaded[INSERTED_HASH], tombstone)


def _document(table: Table, key: str, row: Row) -> rows.Document:
    bookkeeping = {
        VERSION: row.version,
        INSERTED_HASH: row.inserted_hash,
        FIELD_VERSIONS: row.field_versions or None,
    }
    return rows.document(table, key, row.values or {}, bookkeeping)


def processed_row(settled: Settled, outcome: Outcome) -> ProcessedRow:
    """What is remembered of an event."""
    decoded = settled.planned.decoded
    return ProcessedRow(
        decoded.identity,
        decoded.event_id,
        decoded.data_hash,
        outcome.value,
        decoded.topic,
        decoded.topic_id,
        decoded.partition,
        decoded.record.offset,
    )


def _letter(settled: Settled) -> DeadLetterRow:
    decoded, outcome, error = settled.planned.decoded, settled.outcome, settled.error
    assert outcome is not None
    record = decoded.record
    headers = [(printable(name), None if value is None else value.hex()) for name, value in record.headers]
    return DeadLetterRow(
        decoded.topic,
        decoded.topic_id,
        decoded.partition,
        record.offset,
        record.timestamp_ms,
        None if record.key is None else record.key.hex(),
        None if record.value is None else record.value.hex(),
        msgspec.json.encode(headers).decode(),
        decoded.entity_key,
        decoded.identity,
        decoded.event_id,
        decoded.type,
        decoded.source,
        outcome.value,
        type(error).__name__,
        printable(str(error))[:MAX_ERROR_CHARACTERS],
    )


def printable(text: str) -> str:
    """The text as Postgres can keep it: no NUL, no lone surrogate."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
