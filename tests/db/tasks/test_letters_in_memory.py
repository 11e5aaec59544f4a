"""The memory of a worker at the end of a batch with many events that Postgres refuses."""

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from sluice.db.apply import guard
from sluice.db.tables import shape_of
from tests.db.tasks.applying import Bench, create_tables, made, parts, slice_of

EVENTS, PAYLOAD_BYTES = 24, 200_000


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    opened = Bench(database_url)
    opened.look(
        "ALTER TABLE parts ALTER thing_id TYPE text, ADD CONSTRAINT short CHECK (length(thing_id) < 10)"
    )
    opened.look("UPDATE sluice.queues SET accepted_deaths = 100")
    yield opened
    opened.close()


def test_refused_events_keep_no_errors_and_no_statements_in_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: dict[str, int] = {}
    advance_lanes = guard.advance_lanes

    def look_before(*args: Any) -> None:
        # At this point all events are settled, and all their results are still in memory.
        held["objects"] = len(_errors_and_cursors())
        held["bytes"] = tracemalloc.get_traced_memory()[0]
        advance_lanes(*args)

    monkeypatch.setattr(guard, "advance_lanes", look_before)
    records = [made(n, "part.added", f"k{n}", thing_id="x" * PAYLOAD_BYTES) for n in range(EVENTS)]
    monkeypatch.setitem(shape_of(parts).coercers, "thing_id", str)
    gc.collect()
    before = len(_errors_and_cursors())
    gc.disable()
    tracemalloc.start()
    try:
        applied = bench.apply(slice_of(records))
    finally:
        tracemalloc.stop()
        gc.enable()
    assert applied is not None
    assert applied.outcomes == {"dead": EVENTS}
    assert held["objects"] == before
    # Only the decoded data of each event and the effects of the handlers are in memory.
    assert held["bytes"] < 4 * EVENTS * PAYLOAD_BYTES


def _errors_and_cursors() -> list[Any]:
    kinds = (psycopg2.Error, psycopg2.extensions.cursor)
    return [one for one in gc.get_objects() if isinstance(one, kinds)]
