"""Comparisons of two generations. Counts, sums and samples are equal to those of a comparison in memory."""

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, MetaData, Numeric, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import JSON

from sluice.admin.rebuild import report as reporting
from sluice.db.connection import Session
from sluice.db.projections import comparison
from sluice.db.projections.comparison import ONE_SNAPSHOT, Comparer, Comparison
from sluice.db.tables import projection_table
from tests.db.tasks.applying import thing_set
from tests.db.tasks.projecting import Bench, create, registry
from tests.harness.raw_sql import make_engine

sales = projection_table(
    "sales",
    MetaData(),
    Column("sale", String(64), primary_key=True),
    Column("cents", BigInteger, nullable=False),
    Column("share", Numeric),
    Column("note", JSON),
    Column("more", JSONB),
)
Rows = dict[str, tuple[int, int | None, Any]]
notes = st.sampled_from([None, {"a": 1, "b": [2]}, {"b": [2], "a": 1}, "text"])
row_values = st.tuples(st.integers(-3, 3), st.none() | st.integers(0, 2), notes)
# The collation of a database sorts these keys in another order than a sort by bytes.
keys = st.text("aAbB-ä1 ", min_size=1, max_size=3)
tables = st.dictionaries(keys, row_values, max_size=25)


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    engine = make_engine(database_url, connect_args={"options": "-c search_path=public"})
    for number in (1, 2):
        sales.to_metadata(MetaData(), name=f"sales_g{number}").create(engine)
    engine.dispose()
    made = Session(database_url, application_name="test compare")
    yield made
    made.close()


def fill(session: Session, table: str, rows: Rows) -> None:
    """Replaces the rows of a table by these rows."""
    session.command(f"TRUNCATE public.{table}")
    with session.connection.cursor() as cursor:
        for key, (cents, share, note) in rows.items():
            text = None if note is None else json.dumps(note)
            cursor.execute(
                f"INSERT INTO public.{table} (sale, cents, share, note, more) VALUES (%s, %s, %s, %s, %s)",
                (key, cents, share, text, text),
            )


def compare(session: Session) -> Comparison:
    """Returns the last state of a complete comparison."""
    found = Comparison()
    with session.transaction(ONE_SNAPSHOT):
        for found in Comparer(session, sales, "sales_g1", "sales_g2").run():  # noqa: B007
            pass
    return found


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(live=tables, new=tables, chunk=st.integers(1, 7))
def test_a_comparison_in_chunks_of_any_size_equals_a_comparison_in_memory(
    session: Session, monkeypatch: pytest.MonkeyPatch, live: Rows, new: Rows, chunk: int
) -> None:
    monkeypatch.setattr(comparison, "CHUNK_KEYS", chunk)
    fill(session, "sales_g1", live)
    fill(session, "sales_g2", new)
    found = compare(session)
    both = live.keys() & new.keys()
    differing = {key for key in both if live[key] != new[key]}
    assert found.rows["same"] == len(both) - len(differing)
    assert found.rows["only_live"] == len(live.keys() - new.keys())
    assert found.rows["only_new"] == len(new.keys() - live.keys())
    assert found.rows["differing"] == len(differing)
    assert found.differences == len(live.keys() ^ new.keys()) + len(differing)
    for place, column in enumerate(("cents", "share", "note")):
        assert found.differing[column] == sum(live[key][place] != new[key][place] for key in both), column
    assert found.sums["cents"] == tuple(Decimal(sum(r[0] for r in rows.values())) for rows in (live, new))
    sampled = {kind: {sample["key"] for sample in found.samples[kind]} for kind in comparison.KINDS}
    assert sampled["differing"] == differing or len(sampled["differing"]) == comparison.SAMPLES
    assert sampled["only_new"] == new.keys() - live.keys() or len(sampled["only_new"]) == comparison.SAMPLES


def test_samples_show_both_sides(session: Session) -> None:
    fill(session, "sales_g1", {"a": (1, None, None), "b": (2, None, None)})
    fill(session, "sales_g2", {"a": (3, None, None), "c": (4, None, None)})
    samples = compare(session).samples
    assert [(s["key"], s["live"]["cents"], s["new"]["cents"]) for s in samples["differing"]] == [("a", 1, 3)]
    assert [(s["key"], s["live"]["cents"], s["new"]) for s in samples["only_live"]] == [("b", 2, None)]
    assert [(s["key"], s["live"], s["new"]["cents"]) for s in samples["only_new"]] == [("c", None, 4)]


def report_while_events_arrive(database_url: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Compares two equal generations while events are applied to only one of them.

    Returns the number of reported differences.
    """
    create(database_url)
    monkeypatch.setattr(comparison, "CHUNK_KEYS", 5)
    bench = Bench(database_url)
    bench.live(*(thing_set(n, f"k{n:02}", n) for n in range(30)))
    number = bench.begin()
    assert bench.rebuild(number)
    # A worker with other code applies the events. It does not write to the second generation.
    other = bench.with_code(registry(2))
    rng = random.Random(1)

    def an_event_arrives(_: Comparison) -> None:
        offset = len(bench.log)
        other.live(
            thing_set(offset, f"k{rng.randrange(30):02}", offset), thing_set(offset + 1, f"n{offset}", 1)
        )

    report = reporting.compare(
        bench.session, bench.registry, bench.generation(number), compared=an_event_arrives
    )
    assert bench.rows(1) != bench.rows(number)
    bench.close()
    other.close()
    return report.differing


def test_both_generations_are_read_in_one_snapshot(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report_while_events_arrive(database_url, monkeypatch) == 0


def test_a_mutant_with_two_snapshots_is_caught(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "ONE_SNAPSHOT", "")
    assert report_while_events_arrive(database_url, monkeypatch) > 0, "the mutant reports no difference"
