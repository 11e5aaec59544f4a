"""Applies batches in a transaction, rolls it back, and compares what it stored with the fold in memory."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy import Table

from sluice.db.apply.rows import RowStatements, readable
from sluice.db.connection import Session, Statement
from sluice.db.projections.generations import NO_PROJECTIONS
from sluice.db.tables import FIELD_VERSIONS, INSERTED_HASH, VERSION, shape_of
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.fold_io import FoldIO
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FirstSeen, FoldResult, FoldState
from sluice.tasks.fold.plan import Planned
from sluice.tasks.fold.versioned_row import Row
from tests.unit.tasks.scripted import folded, results
from tests.unit.tasks.strategies import AWKWARD_TEXTS, metadata

QUEUE, ENTITY = "script.0", "script"

AWKWARD: dict[str, Sequence[Any]] = {
    "Quoted name": (*AWKWARD_TEXTS, "\x01\x7f\u2028", "é" * 3000),
    "short": ("", "     ", "🎉🎉🎉🎉🎉"),
    "small": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "big": (-(2**63), 2**63 - 1),
    "money": (Decimal("0.1"), Decimal("-0"), Decimal("9999999999.99"), 5, Decimal("1E+3")),
    "number": (
        Decimal("1.10"),
        Decimal("1E+30"),
        Decimal("1E-30"),
        Decimal("-0.0"),
        Decimal("9" * 60 + ".5"),
    ),
    "float": (0.1, 1e308, 5e-324, -0.0, 1e23, 3, 1 / 3),
    "yes": (True, False),
    "at": (
        datetime(2026, 1, 1, 12, 0, 0, 123456, UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(1890, 1, 1, microsecond=1, tzinfo=UTC),
    ),
    "day": (date(1, 1, 1), date(9999, 12, 31)),
    "uuid": (UUID(int=0), UUID(int=2**128 - 1)),
    "bytes": (b"", b"\0\xff\\x", b"'\""),
    "json": ("x", "", 0, [], {}, {"b": 1, "aa": [None, 1e23, -0.0]}, "null", False, {"": "\\u0000"}),
    "jsonb": (
        "x",
        "",
        0,
        [],
        {},
        {"bb": 1, "a": [None, 1e23, -0.0, 1e16, 1.0]},
        "null",
        False,
        {"": "\\u0000"},
    ),
    "mood": ("it's complicated",),
}


Settle: TypeAlias = Callable[[Session, Sequence[Planned]], list[EventResult]]
"""Settles one batch in the open transaction."""


class Undo(Exception):
    """Rolls back a transaction after its result has been read."""


class Apart(AssertionError):
    """FoldState and Postgres disagree."""


def settle_exactly(
    session: Session, batch: Sequence[Planned], *, forgetful: bool = False
) -> list[EventResult]:
    """Settles a batch by the exact fold."""
    store = FoldIO(session, ENTITY, NO_PROJECTIONS, erasures=Erasures(session))
    memory = store.load(batch)
    if forgetful:
        memory.identities.clear()
    result = fold(batch, memory)
    store.write_back(QUEUE, memory, result)
    return result.settled


def applied(
    session: Session, batches: Sequence[Sequence[Planned]], settle: Settle
) -> tuple[list[EventResult], dict[str, Any]]:
    """Applies the batches in order, then rolls them back. Returns the results and everything they stored."""
    settled: list[EventResult] = []
    found: dict[str, Any] = {}
    try:
        with session.transaction():
            for batch in batches:
                settled += settle(session, batch)
            found = in_postgres(session)
            raise Undo
    except Undo:
        return settled, found


def query(session: Session, text: str) -> list[tuple[Any, ...]]:
    rows = session.run(Statement(f"look_{UUID(int=hash(text) % 2**127)}", text))
    return [tuple(map(readable, row)) for row in rows]


def in_postgres(session: Session) -> dict[str, Any]:
    """Returns everything that the events stored, in a comparable form."""
    found: dict[str, Any] = {}
    for table in metadata.sorted_tables:
        statements = RowStatements(table)
        names = ", ".join(f'"{name}"' for name in statements.columns)
        rows = [
            dict(zip(statements.columns, row, strict=True))
            for row in query(session, f"SELECT {names} FROM {statements.target}")
        ]
        found[table.name] = {row[shape_of(table).key]: _full(table, row) for row in rows}
    found["tombstones"] = {
        (table, key): version
        for table, key, version in query(session, "SELECT table_name, key, version FROM sluice.tombstones")
    }
    for name, columns, order in (
        ("outbox_events", "event_id, topic, key, type, version, headers, payload", "id"),
        ("executed_side_effects", "effect_key, effect, identity, entity, entity_key, args, fingerprint,"
         " explicit_once, state", "id"),
        ("call_conflicts", "effect_key, identity, args", "id"),
        ("processed_events", 'identity, event_id, data_hash, outcome, topic, topic_id, partition, "offset"',
         '"offset"'),
        ("dead_letters", 'topic_id, partition, "offset", key, value, headers, identity, outcome, error_class,'
         " error_text", "id"),
    ):  # fmt: skip
        found[name] = query(session, f"SELECT {columns} FROM sluice.{name} ORDER BY {order}")
    return found


def in_memory(memory: FoldState, folded: FoldResult) -> dict[str, Any]:
    """Returns everything that a fold would store, in the same form."""
    found: dict[str, Any] = {table.name: {} for table in metadata.sorted_tables}
    found["tombstones"] = {}
    for (table, key), row in memory.rows.items():
        if row.values is not None:
            found[table.name][key] = _full(
                table, {**row.values, **_bookkeeping(row), shape_of(table).key: key}
            )
        if row.tombstone is not None:
            found["tombstones"][table.name, key] = row.tombstone
    read = msgspec.json.decode
    found["outbox_events"] = [(*e[:5], read(e.headers), e.payload.encode()) for e in folded.emits]
    found["executed_side_effects"] = [
        (c.effect_key, c.effect, c.identity, ENTITY, c.entity_key, read(c.args), c.fingerprint,
         c.explicit_once, "pending")
        for c in folded.calls
    ]  # fmt: skip
    found["call_conflicts"] = [(c.effect_key, c.identity, read(c.args)) for c in folded.call_conflicts]
    found["processed_events"] = [_processed(s) for s in folded.settled if s.outcome and s.gets_identity]
    letters = [_letter(s) for s in folded.settled if s.error is not None]
    # After a re-routing, a repeated conflict is the same record, so it is listed one time.
    found["dead_letters"] = [row for i, row in enumerate(letters) if row not in letters[:i]]
    return found


def _full(table: Table, row: dict[str, Any]) -> str:
    """Returns a row as text, which differs for 1 and 1.0, and for 1.0 and Decimal("1.00")."""
    names = sorted(shape_of(table).types)
    return repr([(name, row.get(name) or None if name == FIELD_VERSIONS else row[name]) for name in names])


def _bookkeeping(row: Row) -> dict[str, Any]:
    fields = dict(sorted(row.field_versions.items(), key=lambda item: (len(item[0]), item[0])))
    return {VERSION: row.version, INSERTED_HASH: row.inserted_hash, FIELD_VERSIONS: fields}


def _processed(settled: EventResult) -> tuple[Any, ...]:
    d = settled.planned.decoded
    assert settled.outcome is not None
    here = FirstSeen(d.data_hash, d.topic_id, d.partition, d.record.offset)
    return (d.identity, d.event_id, here.data_hash, settled.outcome.value, d.topic, *here[1:])


def _letter(settled: EventResult) -> tuple[Any, ...]:
    d = settled.planned.decoded
    assert settled.outcome is not None
    headers = [[name, None if value is None else value.hex()] for name, value in d.record.headers]
    assert settled.error is not None
    fault = (settled.error.error_class, settled.error.text)
    where = (d.topic_id, d.partition, d.record.offset)
    return (*where, d.record.key, d.record.value, headers, d.identity, settled.outcome.value, *fault)


def check(session: Session, batches: Sequence[Sequence[Planned]], settle: Settle = settle_exactly) -> None:
    """Raises Apart with the first difference."""
    memory, whole = folded(*(event for batch in batches for event in batch))
    settled, found = applied(session, batches, settle)
    wanted = in_memory(memory, whole)
    for name, rows in wanted.items():
        if found[name] != rows:
            raise Apart(f"{name}: memory\n{rows}\nPostgres\n{found[name]}")
    if results(settled) != results(whole.settled):
        raise Apart(f"memory\n{results(whole.settled)}\nPostgres\n{results(settled)}")
