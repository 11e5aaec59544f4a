"""Batches that are not as the optimistic path assumes end as they do in the exact fold."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sluice.db.apply import assumed_rows, identities, outgoing
from sluice.kafka_io.record_types import Record
from sluice.stack import Stack
from sluice.tasks.apply import optimistic_writer, settler
from sluice.tasks.apply.optimistic_writer import OptimisticWriter
from tests.db.tasks.applying import Bench, create_tables, made, slice_of, thing_set
from tests.harness import stacks
from tests.mutants import mutated

STATE = {
    "identities": 'SELECT event_id, outcome, "offset" FROM sluice.processed_events ORDER BY "offset"',
    "outbox": "SELECT event_id, key, type, payload, headers::text FROM sluice.outbox_events ORDER BY id",
    "calls": "SELECT effect_key, identity, args::text, state FROM sluice.executed_side_effects ORDER BY id",
    "things": "SELECT * FROM public.things ORDER BY thing_id",
    "parts": "SELECT * FROM public.parts ORDER BY part_id",
    "letters": 'SELECT "offset", outcome, error_class, error_text FROM sluice.dead_letters ORDER BY "offset"',
    "parked": "SELECT key FROM sluice.parked_entities ORDER BY key",
    "lanes": "SELECT applied_offset, applied, stale, duplicate, conflict, dead, waiting"
    " FROM sluice.lane_offsets",
    "queue": "SELECT halted_reason, w.failure_window FROM sluice.queues LEFT JOIN sluice.failure_windows w"
    " USING (queue)",
}


class Watched(OptimisticWriter):
    """Counts the optimistic attempts."""

    attempts = 0

    def settle(self, events: Any) -> Any:
        Watched.attempts += 1
        return super().settle(events)


@contextmanager
def a_bench(postgres: Stack) -> Iterator[Bench]:
    with stacks.database(postgres) as url:
        create_tables(url)
        bench = Bench(url)
        yield bench
        bench.close()


@pytest.fixture
def optimistic(postgres: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench that tries every batch optimistically."""
    monkeypatch.setattr(settler, "OptimisticWriter", Watched)
    monkeypatch.setattr(Watched, "attempts", 0)
    monkeypatch.setenv("SLUICE_OPTIMISTIC", "always")
    with a_bench(postgres) as bench:
        yield bench


@pytest.fixture
def exact(postgres: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench that settles every batch by the exact fold."""
    monkeypatch.setenv("SLUICE_OPTIMISTIC", "never")
    with a_bench(postgres) as bench:
        yield bench


def state(bench: Bench) -> dict[str, list[tuple[Any, ...]]]:
    """Returns everything that the batches stored."""
    return {name: [tuple(map(_plain, row)) for row in bench.look(query)] for name, query in STATE.items()}


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def apply(bench: Bench, *batches: list[Record]) -> None:
    """Applies the batches, one message each."""
    before = -1
    for records in batches:
        assert bench.apply(slice_of(records, prev=before)) is not None
        before = records[-1].offset


def batch(first: int = 0, count: int = 20) -> list[Record]:
    """Returns one event each of so many entities."""
    return [thing_set(first + n, f"k{n:02}", amount=n) for n in range(count)]


SECOND: dict[str, Callable[[], list[Record]]] = {
    "stale": lambda: [*batch(20, 12), thing_set(40, "k15", version=3), thing_set(41, "k16")],
    "a repeat": lambda: [*batch(20, 5), thing_set(40, "k05", event_id="e5", version=5, amount=5)],
    "a repeat of the batch": lambda: [
        *batch(20),
        thing_set(40, "k05", event_id="e25", version=25, amount=5),
    ],
    "a contradiction": lambda: [*batch(20, 5), thing_set(40, "k05", event_id="e5", version=5, amount=6)],
    "an equal version": lambda: [*batch(20, 5), thing_set(40, "k11", version=11, amount=9)],
    "refused by its handler": lambda: [
        *batch(20, 12),
        made(40, "thing.broken", "k15"),
        thing_set(41, "k15"),
    ],
    "refused by a constraint": lambda: [
        *batch(20, 12),
        thing_set(40, "k15", amount=-1),
        thing_set(41, "k15"),
    ],
    "not unique": lambda: [
        thing_set(20, "k01", name="n"),
        thing_set(21, "k02"),
        thing_set(50, "k00", name="n"),
    ],
    "of an unknown type": lambda: [*batch(20, 5), made(40, "thing.unknown", "k15"), thing_set(41, "k16")],
    "of another table": lambda: [*batch(20, 5), made(40, "part.added", "p", thing_id="k03")],
    "of a missing row": lambda: [*batch(20, 5), made(40, "part.added", "p", thing_id="nowhere")],
    "a Read before a newer event": lambda: [
        *batch(20, 5),
        made(40, "thing.copied", "k15", to="k16"),
        thing_set(41, "k16"),
    ],
    "a Read after an older event": lambda: [
        thing_set(20, "k16"),
        *batch(21, 5),
        made(40, "thing.copied", "k15", to="k16"),
    ],
    "a Read beside others": lambda: [*batch(20, 5), made(40, "thing.copied", "k15", to="k17")],
    "all stale": lambda: [thing_set(40 + n, f"k{n:02}", version=0, amount=n) for n in range(1, 20)],
}


@pytest.mark.parametrize("what", SECOND)
def test_a_batch_with_such_an_event_ends_as_in_the_exact_fold(
    optimistic: Bench, exact: Bench, what: str
) -> None:
    for bench in (optimistic, exact):
        apply(bench, batch(), SECOND[what](), batch(60))
    assert state(optimistic) == state(exact)
    assert Watched.attempts == 3, "each batch is tried one time"


def test_a_mutant_that_lets_a_read_use_the_rows_of_other_events_is_caught(
    optimistic: Bench, exact: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = mutated(optimistic_writer, "isdisjoint(folded.rows)", "isdisjoint(())")
    monkeypatch.setattr(settler, "OptimisticWriter", mutant.OptimisticWriter)
    for bench in (optimistic, exact):
        apply(bench, batch(), SECOND["a Read before a newer event"]())
    assert state(optimistic) != state(exact)


def test_a_row_that_another_application_writes_between_two_statements_is_kept(
    optimistic: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, others = assumed_rows.write_whole_rows, iter([True])

    def after_another(*args: Any) -> list[str]:
        if next(others, False):
            optimistic.look("INSERT INTO public.things (thing_id, amount, version) VALUES ('k03', 99, 1000)")
        return write(*args)

    monkeypatch.setattr(assumed_rows, "write_whole_rows", after_another)
    apply(optimistic, batch())
    assert optimistic.amounts() == {f"k{n:02}": 99 if n == 3 else n for n in range(20)}
    assert optimistic.outcomes() == {"applied": 19, "stale": 1}
    stored = optimistic.look("SELECT outcome FROM sluice.processed_events WHERE event_id = 'e3'")
    assert stored == [("stale",)], "the identity has the outcome of the exact fold"
    assert len(optimistic.look("SELECT 1 FROM sluice.outbox_events")) == 19
    assert Watched.attempts == 1


def test_an_identity_that_another_session_stores_first_is_a_repeat(optimistic: Bench, exact: Bench) -> None:
    apply(exact, batch())
    [row] = exact.look(
        "SELECT identity, event_id, data_hash, outcome, topic FROM sluice.processed_events"
        " WHERE event_id = 'e4'"
    )
    values = ", ".join(f"'{value}'" for value in row)
    optimistic.look(
        "INSERT INTO sluice.processed_events"
        ' (identity, event_id, data_hash, outcome, topic, topic_id, partition, "offset")'
        f" VALUES ({values}, 'another-id', 3, 77)"
    )
    apply(optimistic, batch())
    assert optimistic.outcomes() == {"applied": 19, "duplicate": 1}
    assert "k04" not in optimistic.amounts()
    assert Watched.attempts == 1


SERIALIZATION_FAILURE = "DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '40001'; END $$"
STEPS: dict[str, tuple[Any, str]] = {
    "identities": (identities, "note_new_identities"),
    "rows": (assumed_rows, "write_whole_rows"),
    "calls": (outgoing, "insert_effects"),
    "outgoing events": (outgoing, "insert_outbox"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_error_at_any_step_leaves_the_batch_to_the_exact_fold(
    optimistic: Bench, exact: Bench, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    module, name = STEPS[step]
    original, failing = getattr(module, name), iter([True])

    def fail(*args: Any, **kwargs: Any) -> Any:
        fails = next(failing, False)
        if fails and when == "before":
            optimistic.session.command(SERIALIZATION_FAILURE)
        result = original(*args, **kwargs)
        if fails:
            optimistic.session.command(SERIALIZATION_FAILURE)
        return result

    apply(exact, batch(), batch(20))
    monkeypatch.setattr(module, name, fail)
    apply(optimistic, batch(), batch(20))
    assert state(optimistic) == state(exact)
    assert Watched.attempts == 2, "the exact fold settled the first batch"


def test_transactions_are_counted_by_their_way(optimistic: Bench) -> None:
    def ways(records: list[Record], prev: int) -> dict[str, int]:
        applied = optimistic.apply(slice_of(records, prev=prev))
        assert applied is not None
        return dict(applied.ways)

    assert ways(batch(), -1) == {"optimistic": 1}
    assert ways(SECOND["all stale"](), 19) == {"optimistic": 1}
    refused = [thing_set(60, "k01"), thing_set(61, "k02", amount=-1)]
    assert ways(refused, 59) == {"rolled back": 1, "singly": 1}
    assert ways([thing_set(70, "k03")], 61) == {"optimistic": 1}
