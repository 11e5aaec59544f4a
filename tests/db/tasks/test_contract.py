"""For the same events, the fold in memory and Postgres produce the same rows."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, create_engine

from sluice.db.apply.rows import RowStatements, readable
from sluice.db.connection import BATCH_PLANS, Session, Statement
from sluice.db.errors import RowsChanged
from sluice.db.projections.generations import NO_PROJECTIONS
from sluice.db.tables import FIELD_VERSIONS, INSERTED_HASH, VERSION, shape_of
from sluice.tasks.api import Delete, Insert, Merge, Read, Upsert
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.fold_io import FoldIO
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FirstSeen, FoldResult, FoldState
from sluice.tasks.fold.plan import Planned
from sluice.tasks.fold.versioned_row import Row
from tests.unit.tasks.scripted import event_logs, folded, results, scripted, splits
from tests.unit.tasks.strategies import AWKWARD_TEXTS, EVERY_TYPE, metadata, whole

QUEUE, ENTITY = "script.0", "script"


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    engine = create_engine(database_url, connect_args={"options": "-c search_path=public"})
    metadata.create_all(engine)
    engine.dispose()
    session = Session(database_url, application_name="contract", plans=BATCH_PLANS)
    yield session
    session.close()


class Undo(Exception):
    """Rolls back a transaction after its result has been read."""


class Apart(AssertionError):
    """The FoldState in memory and the rows in Postgres differ."""


def applied(
    session: Session, batches: Sequence[Sequence[Planned]], *, forgetful: bool = False
) -> tuple[list[EventResult], dict[str, Any]]:
    """Applies the batches in order, then rolls them back. Returns the results and all stored rows."""
    settled: list[EventResult] = []
    found: dict[str, Any] = {}
    try:
        with session.transaction():
            for batch in batches:
                store = FoldIO(session, ENTITY, NO_PROJECTIONS, erasures=Erasures(session))
                memory = store.load(batch)
                if forgetful:
                    memory.identities.clear()
                folded = fold(batch, memory)
                store.write_back(QUEUE, memory, folded)
                settled += folded.settled
            found = in_postgres(session)
            raise Undo
    except Undo:
        return settled, found


def query(session: Session, text: str) -> list[tuple[Any, ...]]:
    rows = session.run(Statement(f"look_{UUID(int=hash(text) % 2**127)}", text))
    return [tuple(map(readable, row)) for row in rows]


def in_postgres(session: Session) -> dict[str, Any]:
    """Returns all rows that the events stored in Postgres, in a form that can be compared."""
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
    """Returns all rows that a fold in memory would store, in the same form."""
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
    found["processed_events"] = [_processed(s) for s in folded.settled if s.outcome and not s.known]
    letters = [_letter(s) for s in folded.settled if s.error is not None]
    # After a re-routing, a repeated conflict is the same record, so it is listed one time.
    found["dead_letters"] = [row for i, row in enumerate(letters) if row not in letters[:i]]
    return found


def _full(table: Table, row: dict[str, Any]) -> str:
    """Returns a row as text. The texts of 1, 1.0 and Decimal("1.00") differ."""
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


def check(session: Session, batches: Sequence[Sequence[Planned]], *, forgetful: bool = False) -> None:
    """Applies the batches in Postgres and in memory. Raises Apart at the first difference."""
    memory, whole = folded(*(event for batch in batches for event in batch))
    settled, found = applied(session, batches, forgetful=forgetful)
    wanted = in_memory(memory, whole)
    for name, rows in wanted.items():
        if found[name] != rows:
            raise Apart(f"{name}: memory\n{rows}\nPostgres\n{found[name]}")
    if results(settled) != results(whole.settled):
        raise Apart(f"memory\n{results(whole.settled)}\nPostgres\n{results(settled)}")


def test_memory_and_postgres_agree_for_batches_of_any_size(session: Session) -> None:
    @settings(
        max_examples=150,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        check(session, data.draw(event_logs().flatmap(splits)))

    agree()


def test_a_mutant_without_dedup_is_caught(session: Session) -> None:
    log = [scripted(n, Insert(EVERY_TYPE, f"k{n}", {}), identity=1) for n in range(2)]
    check(session, [log])
    check(session, [log[:1], log[1:]])
    with pytest.raises(RowsChanged, match="another transaction stored 1 of the identities"):
        check(session, [log[:1], log[1:]], forgetful=True)


def test_mutants_that_do_not_write_bookkeeping_are_caught(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = [
        scripted(0, Delete(EVERY_TYPE, "k", 3)),
        scripted(1, Upsert(EVERY_TYPE, "k", whole(EVERY_TYPE, {}), 2)),
    ]
    merged = [
        scripted(2, Merge(EVERY_TYPE, "m", {"yes": True}, 5)),
        scripted(3, Upsert(EVERY_TYPE, "m", whole(EVERY_TYPE, {}), 4)),
    ]
    check(session, [[event] for event in deleted + merged])
    with monkeypatch.context() as patched:
        patched.setattr("sluice.tasks.apply.row_store.rows.write_tombstones", lambda *_: None)
        with pytest.raises(Apart):
            check(session, [[event] for event in deleted])
    with monkeypatch.context() as patched:
        patched.setattr("sluice.tasks.apply.row_store.FIELD_VERSIONS", "forgotten")
        patched.setattr("sluice.db.apply.rows.FIELD_VERSIONS", "forgotten")
        with pytest.raises(Apart):
            check(session, [[event] for event in merged])


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


@pytest.mark.parametrize("name", AWKWARD)
def test_values_that_postgres_would_alter_are_stored_unchanged(session: Session, name: str) -> None:
    assert set(AWKWARD) == set(shape_of(EVERY_TYPE).fields), "every column is tested"
    log: list[Planned] = []
    for number, value in enumerate((*AWKWARD[name], None)):
        key = f"k{number}"
        for write in (
            Insert(EVERY_TYPE, key, {name: value}),
            Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {name: value}), 5),
            # A duplicate: its version is equal.
            Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {name: value}), 5),
            Merge(EVERY_TYPE, key, {name: value}, 6),
            # A duplicate: its hash is equal.
            Insert(EVERY_TYPE, key, {name: value}),
            Read(EVERY_TYPE, key),
        ):
            log.append(scripted(len(log), write))
    check(session, [log])
    check(session, [[event] for event in log])
    outcomes = [settled.outcome.value for settled in folded(*log)[1].settled if settled.outcome]
    assert outcomes == ["applied", "applied", "duplicate", "applied", "duplicate", "applied"] * (
        len(log) // 6
    )


@pytest.mark.parametrize("key", AWKWARD_TEXTS)
def test_awkward_keys_are_stored_unchanged(session: Session, key: str) -> None:
    log = [
        scripted(0, Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {}), 1)),
        scripted(1, Merge(EVERY_TYPE, key, {"yes": True}, 3)),
        scripted(2, Delete(EVERY_TYPE, key, 2)),
        scripted(3, Delete(EVERY_TYPE, key, 4)),
        scripted(4, Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {}), 4)),
        scripted(5, Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {}), 5)),
    ]
    check(session, [[event] for event in log])
    check(session, [log[:3], log[3:]])
