"""Plans of the statements of a batch: no nested loop, no full table scan, linear cost in the batch size."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sluice.db.apply import identities
from sluice.db.connection import BATCH_PLANS, Statement
from sluice.tasks.apply import chunks, optimistic_writer
from sluice.tasks.apply.apply import Applier
from tests.db.tasks.applying import QUEUE, Bench, create_tables, slice_of, thing_set
from tests.db.tasks.recording import RecordingSession

KEYS = 5_000
SMALL, LARGE = 50, 500
REPEATED_PAGES = 2
"""An index scan counts a page of the table again if the row before lay on another page. Identities and calls
of a small batch lie on one or two pages, those of a large batch on many: up to one page per event and table.
"""
FORBIDDEN = {"Nested Loop", "Merge Join", "Seq Scan"}


WRITES = {
    "always": {"assume_whole_things"},
    "never": {"load_things", "update_things", "insert_things"},
}
"""SLUICE_OPTIMISTIC → statements that a batch then runs."""


@pytest.fixture(params=WRITES)
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SLUICE_OPTIMISTIC", request.param)
    # On a busy machine, handlers of a large batch may exceed their time. The batch is then split, and reads
    # the rows of the second part twice.
    for module in (chunks, optimistic_writer):
        monkeypatch.setattr(module, "HANDLER_BUDGET_SECONDS", 600.0)
    return str(request.param)


@pytest.fixture
def bench(database_url: str, mode: str) -> Iterator[Bench]:
    create_tables(database_url)
    bench = Bench(database_url)
    _use_recording_session(bench, BATCH_PLANS)
    yield bench
    bench.close()


def _use_recording_session(bench: Bench, plans: Mapping[str, str]) -> None:
    bench.session.close()
    session = RecordingSession(bench.database_url, application_name="test plans", plans=plans)
    session.ran = []
    bench.session, bench.applier = session, Applier(session, bench.registry)


def test_no_plan_of_a_batch_has_a_nested_loop_or_a_full_table_scan(bench: Bench) -> None:
    last = _fill(bench)
    for statement, values in _ran_by_one_batch(bench, last, SMALL):
        nodes = {node["Node Type"] for node in _nodes(bench.session.explain(statement, values))}  # type: ignore[attr-defined]
        assert not nodes & FORBIDDEN, f"{statement.name}: {nodes & FORBIDDEN}"


def test_without_the_batch_settings_a_plan_has_a_nested_loop_or_a_full_table_scan(bench: Bench) -> None:
    last = _fill(bench)
    _use_recording_session(bench, {})
    ran = _ran_by_one_batch(bench, last, SMALL)
    nodes = {
        node["Node Type"]
        for statement, values in ran
        for node in _nodes(bench.session.explain(statement, values))  # type: ignore[attr-defined]
    }
    assert nodes & FORBIDDEN


def test_pages_touched_per_event_do_not_grow_with_the_batch(bench: Bench) -> None:
    last = _fill(bench)
    small = _pages(bench, _ran_by_one_batch(bench, last, SMALL)) / SMALL
    large = _pages(bench, _ran_by_one_batch(bench, last + SMALL, LARGE)) / LARGE
    found = f"{small:.1f} pages per event at {SMALL}, {large:.1f} at {LARGE}"
    assert large <= small + REPEATED_PAGES, found


CORRECTED_PAGES = 2_000
"""The limit for the statement that corrects outcomes. A scan of all identities reads thousands of pages."""


def _pages_for_stale_events(bench: Bench) -> int:
    """Returns the number of pages that are read to correct the outcomes of stale events."""
    last = _fill(bench)
    assert isinstance(bench.session, RecordingSession)
    bench.session.ran.clear()
    records = [thing_set(last + 1 + n, f"key-{n}", version=n * (n % 2)) for n in range(SMALL)]
    applied = bench.apply(slice_of(records, prev=last))
    assert applied is not None
    assert applied.outcomes["stale"] > 0
    return _pages(bench, [one for one in bench.session.ran if one[0].name == "update_outcomes"])


@pytest.mark.parametrize("mode", ["always"], indirect=True)
def test_a_batch_with_stale_events_reads_few_pages_of_a_large_table(bench: Bench) -> None:
    assert _pages_for_stale_events(bench) < CORRECTED_PAGES


@pytest.mark.parametrize("mode", ["always"], indirect=True)
def test_a_mutant_that_joins_all_identities_reads_many_pages(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = identities.UPDATE_OUTCOMES.text.replace("AND e.identity = ANY ($1)", "")
    mutant = Statement("update_outcomes", text, identities.UPDATE_OUTCOMES.types)
    monkeypatch.setattr(identities, "UPDATE_OUTCOMES", mutant)
    assert _pages_for_stale_events(bench) > CORRECTED_PAGES


def _fill(bench: Bench) -> int:
    """Applies one event per key and returns the last offset."""
    for first in range(0, KEYS, LARGE):
        records = [thing_set(n, f"key-{n}") for n in range(first, first + LARGE)]
        assert bench.apply(slice_of(records, prev=first - 1)) is not None
    return KEYS - 1


def _ran_by_one_batch(bench: Bench, last: int, size: int) -> list[tuple[Statement, tuple[Any, ...]]]:
    session = bench.session
    assert isinstance(session, RecordingSession)
    session.ran.clear()
    # Half of the rows exist and half are new, so the batch runs updates and inserts.
    records = [
        thing_set(last + 1 + n, f"key-{n * 7 % KEYS}" if n % 2 else f"new-{last + n}") for n in range(size)
    ]
    applied = bench.applier.apply(QUEUE, [slice_of(records, prev=last)])
    assert applied is not None
    assert applied.outcomes["applied"] == size
    names = {statement.name.rpartition("_")[0] for statement, _ in session.ran}
    assert any(expected <= names for expected in WRITES.values()), names
    return list(session.ran)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _pages(bench: Bench, ran: list[tuple[Statement, tuple[Any, ...]]]) -> int:
    plans = [bench.session.explain(statement, values) for statement, values in ran]  # type: ignore[attr-defined]
    return sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans)
