"""The optimistic path and the fold in memory agree, also where the assumption is wrong."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table

from sluice.db.apply import assumed_rows, identities
from sluice.db.apply.rows import named_statement
from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.errors import RowsChanged
from sluice.db.projections.generations import NO_PROJECTIONS
from sluice.db.tables import shape_of
from sluice.tasks.api import Emit, Insert, Merge, Upsert
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.optimistic_writer import Deviated, OptimisticWriter, Statements
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.plan import Planned
from tests.db.tasks.contract import AWKWARD, ENTITY, QUEUE, Apart, check, settle_exactly
from tests.harness.raw_sql import make_engine
from tests.mutants import mutated
from tests.unit.tasks.newer_logs import by_position, natural_logs, newer_logs
from tests.unit.tasks.scripted import scripted, splits
from tests.unit.tasks.strategies import (
    EVERY_TYPE_KEPT,
    MERGED_KEPT,
    PLAIN,
    TIMED,
    metadata,
    whole,
)


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    engine = make_engine(database_url, connect_args={"options": "-c search_path=public"})
    metadata.create_all(engine)
    engine.dispose()
    session = Session(database_url, application_name="contract", plans=BATCH_PLANS)
    yield session
    session.close()


class Optimist:
    """Settles batches optimistically, and exactly those that deviate. Counts both."""

    def __init__(self) -> None:
        self.statements = Statements()
        self.batches: Counter[str] = Counter()

    def __call__(self, session: Session, batch: Sequence[Planned]) -> list[EventResult]:
        writer = OptimisticWriter(
            session,
            self.statements,
            queue=QUEUE,
            entity=ENTITY,
            snapshot=NO_PROJECTIONS,
            erasures=Erasures(session),
            has_parked=False,
        )
        try:
            with session.savepoint():
                settled = writer.settle(batch)
        except (Deviated, RowsChanged, psycopg2.Error) as error:
            self.batches[type(error).__name__] += 1
        else:
            self.batches["settled" if settled is not None else "left"] += 1
            if settled is not None:
                return settled
        return settle_exactly(session, batch)


def settled_at_random(session: Session, logs: st.SearchStrategy[list[Planned]]) -> Counter[str]:
    """Checks random logs in random batches. Returns how many batches ended in which way."""
    optimist = Optimist()

    @settings(
        max_examples=60,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        check(session, data.draw(logs.flatmap(splits)), optimist)

    agree()
    return optimist.batches


def test_the_optimistic_path_and_memory_agree_for_batches_of_any_size(session: Session) -> None:
    batches = settled_at_random(session, newer_logs())
    assert batches["settled"] > batches.total() / 4, batches
    assert batches["left"], "some batches are left to the exact fold"


@pytest.mark.parametrize("logs", [natural_logs(), newer_logs().map(by_position)], ids=["natural", "position"])
def test_the_optimistic_path_and_memory_agree_for_topics_without_identities(
    session: Session, logs: st.SearchStrategy[list[Planned]]
) -> None:
    batches = settled_at_random(session, logs)
    assert batches["settled"], batches


def upsert(
    offset: int, key: str, version: int, *, table: Table = PLAIN, a: str = "x", **more: Any
) -> Planned:
    """Returns an event that writes one row and emits an event."""
    write = Upsert(table, key, whole(table, {"a": a}), version)
    return scripted(offset, write, Emit("out", key, "told", {"v": version}), key=key, **more)


def test_stale_repeated_and_faulty_events_do_not_end_the_optimistic_path(session: Session) -> None:
    before = [upsert(n, f"k{n}", 10) for n in range(40)]
    after = [upsert(100 + n, f"k{n}", 20) for n in range(40)]
    after[3] = upsert(103, "k3", 5)  # stale
    after[7] = before[7]  # the same record
    after[9] = upsert(109, "k9", 10, identity=1_009)  # a repeat
    after[11] = upsert(111, "k11", 10, a="y")  # a conflict
    after[13] = scripted(113, RuntimeError("a fault"), key="k13")
    after += [upsert(150, "k3", 6), upsert(151, "k3", 30), upsert(152, "k5", 19)]
    optimist = Optimist()
    check(session, [before, after], optimist)
    assert optimist.batches == {"settled": 2}


@pytest.mark.parametrize(
    ("old", "new"), [("< cardinality($1)", "< 0"), ("AND NOT EXISTS (SELECT FROM", "AND EXISTS (SELECT FROM")]
)
def test_a_mutant_that_misses_known_identities_is_caught(
    session: Session, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setattr(identities, "NOTE_IDENTITIES", mutated(identities, old, new).NOTE_IDENTITIES)
    before = [upsert(n, f"k{n}", 10) for n in range(20)]
    after = [upsert(100 + n, f"k{n}", 20) for n in range(20)]
    after[9] = upsert(109, "k9", 10, identity=1_009)  # a repeat
    with pytest.raises(Apart):
        check(session, [before, after], Optimist())


def test_events_that_need_their_rows_do_not_end_the_optimistic_path(session: Session) -> None:
    def merge(offset: int, key: str, version: int, a: str = "x") -> Planned:
        write = Merge(MERGED_KEPT, key, {"a": a}, version)
        return scripted(offset, write, Emit("out", key, "told", {"v": version}), key=key)

    before = [merge(n, f"m{n}", 10) for n in range(20)]
    after = [merge(100 + n, f"m{n}", 20) for n in range(20)]
    after[3] = merge(103, "m3", 5)  # stale
    after[7] = before[7]  # the same record
    after[9] = merge(109, "m9", 10, a="y")  # a conflict
    after[11] = scripted(111, RuntimeError("a fault"), key="m11")
    after += [merge(150, "m9", 30), merge(151, "m11", 30), upsert(152, "other", 1)]  # the first two wait
    optimist = Optimist()
    check(session, [before, after], optimist)
    assert optimist.batches == {"settled": 2}


def test_rows_that_are_partly_older_leave_the_batch_to_the_exact_fold(session: Session) -> None:
    first = scripted(0, Upsert(PLAIN, "k", whole(PLAIN, {}), 10), key="k")
    both = scripted(
        1, Upsert(TIMED, "k", whole(TIMED, {}), _at(1)), Upsert(PLAIN, "k", whole(PLAIN, {}), 5), key="k"
    )
    others = [upsert(10 + n, f"o{n}", 1) for n in range(9)]
    optimist = Optimist()
    check(session, [[first], [both, *others]], optimist)
    assert optimist.batches == {"settled": 1, "Deviated": 1}


def _at(n: int) -> datetime:
    return datetime(2026, 1, 1, microsecond=n, tzinfo=UTC)


@pytest.mark.parametrize("name", shape_of(EVERY_TYPE_KEPT).fields)
def test_values_of_every_type_are_stored_as_the_exact_fold_stores_them(session: Session, name: str) -> None:
    values = (*AWKWARD[name], None)
    new = [_of_every_type(n, name, value, Insert, "i") for n, value in enumerate(values)]
    new += [_of_every_type(100 + n, name, value, Upsert, "u", 1) for n, value in enumerate(values)]
    newer = [_of_every_type(200 + n, name, value, Upsert, "u", 2) for n, value in enumerate(reversed(values))]
    optimist = Optimist()
    check(session, [new, newer], optimist)
    check(session, [[*new, *newer]], optimist)
    assert optimist.batches == {"settled": 3}


def _of_every_type(offset: int, name: str, value: Any, write: Any, prefix: str, *version: int) -> Planned:
    key = f"{prefix}{offset % 100}"
    fields = {name: value} if write is Insert else whole(EVERY_TYPE_KEPT, {name: value})
    return scripted(offset, write(EVERY_TYPE_KEPT, key, fields, *version), key=key)


@pytest.mark.parametrize("guard", ["older", "first version", "merged", "floor of the version"])
def test_mutants_without_a_guard_are_caught(
    session: Session, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    first = [
        upsert(0, "k", 10),
        scripted(1, Merge(MERGED_KEPT, "m", {"a": "z"}, 9), key="m"),
        *[upsert(2 + n, f"a{n}", 1) for n in range(4)],
    ]
    second = [
        upsert(10, "k", 5),
        upsert(11, "k", 12),
        upsert(12, "m", 3, table=MERGED_KEPT),
        *[upsert(13 + n, f"b{n}", 1) for n in range(8)],
    ]
    batches = [first, second]
    check(session, batches, Optimist())
    first_version = "coalesce(d.o, d.v)"
    text, instead = {
        "older": (f"t.version < {first_version}", "true"),
        "first version": (first_version, "d.v"),
        "merged": ("t.field_versions IS NULL", "true"),
        "floor of the version": (f"{first_version} IS NULL OR", f"d.v > {first_version} OR"),
    }[guard]

    def unguarded(table: str, verb: str, sql: str, types: tuple[str, ...]) -> Any:
        return named_statement(table, f"{verb[:8]}mutant", sql.replace(text, instead), types)

    monkeypatch.setattr(assumed_rows, "named_statement", unguarded)
    with pytest.raises(Apart):
        check(session, batches, Optimist())
