"""A batch with events that Postgres refuses: the savepoints find them, and all other events are applied."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sluice.db.connection import BATCH_PLANS
from sluice.kafka_io.record_types import Record
from sluice.stack import Stack
from sluice.tasks.apply import batch_writer
from sluice.tasks.apply.apply import Applier
from sluice.tasks.apply.halving import Halving
from tests.db.tasks.applying import Bench, create_tables, slice_of, thing_set
from tests.db.tasks.recording import RecordingSession
from tests.db.tasks.test_optimistic_deviations import state
from tests.harness import stacks

EVENTS = 256
FEW = 250  # statements, for one refused event of EVENTS

OpenBench = Callable[[str], Bench]


@pytest.fixture
def open_bench(postgres: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenBench]:
    """Yields a function that opens a bench on its own database, with a mode of SLUICE_OPTIMISTIC."""
    opened: list[Bench] = []
    urls = [stacks.database(postgres) for _ in range(3)]

    def open_one(mode: str) -> Bench:
        url = urls[len(opened)].__enter__()
        create_tables(url)
        bench = Bench(url)
        bench.session.close()
        bench.session = RecordingSession(url, application_name="test refused", plans=BATCH_PLANS)
        bench.session.ran = []
        monkeypatch.setenv("SLUICE_OPTIMISTIC", mode)
        bench.applier = Applier(bench.session, bench.registry)
        opened.append(bench)
        return bench

    yield open_one
    for bench, url in zip(opened, urls, strict=False):
        bench.close()
        url.__exit__(None, None, None)


def statements(bench: Bench) -> int:
    """Returns the number of statements that the worker ran."""
    assert isinstance(bench.session, RecordingSession)
    return len(bench.session.ran)


def one_refused(place: int) -> list[Record]:
    return [thing_set(n, f"k{n}", amount=-1 if n == place else n) for n in range(EVENTS)]


@pytest.mark.parametrize("mode", ["always", "never"])
def test_one_refused_event_of_a_large_batch_costs_few_statements(open_bench: OpenBench, mode: str) -> None:
    bench = open_bench(mode)
    assert bench.apply(slice_of(one_refused(100))) is not None
    assert bench.outcomes() == {"applied": EVENTS - 1, "dead": 1}
    assert bench.look("SELECT entity_key FROM sluice.dead_letters") == [("k100",)]
    assert statements(bench) < FEW


def test_a_mutant_with_a_savepoint_per_event_runs_many_statements(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Halving, "next_count", lambda *_: 1)
    bench = open_bench("always")
    assert bench.apply(slice_of(one_refused(100))) is not None
    assert bench.outcomes() == {"applied": EVENTS - 1, "dead": 1}
    assert statements(bench) > 4 * FEW


def test_an_event_that_meets_a_lock_beside_a_refused_event_is_set_aside(open_bench: OpenBench) -> None:
    bench = open_bench("always")
    bench.session.command("SET lock_timeout = '200ms'")
    bench.looking.command(
        "BEGIN; INSERT INTO public.things (thing_id, amount, name) VALUES ('z', 1, 'taken')"
    )
    records = [thing_set(n, f"k{n}") for n in range(8)]
    # Postgres writes the rows in the order of their keys, so it refuses `a` before it meets the lock.
    records[4:7] = [thing_set(4, "k4", name="taken"), thing_set(5, "k5"), thing_set(6, "a", amount=-1)]
    assert bench.apply(slice_of(records)) is not None
    bench.looking.command("ROLLBACK")
    assert bench.outcomes() == {"applied": 6, "dead": 1, "waiting": 1}
    assert bench.look("SELECT key FROM sluice.parked_entities ORDER BY key") == [("a",), ("k4",)]


def random_batches(rng: random.Random) -> list[list[Record]]:
    """Returns batches with stale, repeated and refused events. Later events correct most refused rows."""
    batches, offset = [], 0
    for _ in range(4):
        records: list[Record] = []
        for _ in range(rng.randrange(2, 40)):
            key, kind = f"k{rng.randrange(30)}", rng.random()
            if kind < 0.1 and records:
                records.append(rng.choice(records)._replace(offset=offset))
            else:
                version = max(0, offset - 20) if kind < 0.2 else offset
                amount = -1 if rng.random() < 0.2 else rng.randrange(100)
                records.append(thing_set(offset, key, amount=amount, version=version))
            offset += 1
        batches.append(records)
    return batches


def compare_with_single_savepoints(open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    batches = random_batches(random.Random(seed))
    states: list[dict[str, list[tuple[Any, ...]]]] = []
    for mode in ("always", "never", "never"):
        bench = open_bench(mode)
        if len(states) == 2:
            monkeypatch.setattr(Halving, "next_count", lambda *_: 1)
        before = -1
        for records in batches:
            assert bench.apply(slice_of(records, prev=before)) is not None
            before = records[-1].offset
        states.append(state(bench))
    assert states[0] == states[2], f"seed {seed}"
    assert states[1] == states[2], f"seed {seed}"
    assert states[2]["letters"], "the seed must make a refused event"


@pytest.mark.parametrize("seed", range(8))
def test_refused_events_end_as_if_each_event_had_its_own_savepoint(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    compare_with_single_savepoints(open_bench, monkeypatch, seed)


def test_a_mutant_that_tries_events_of_one_row_together_is_caught(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_writer, "count_apart", len)
    with pytest.raises(AssertionError, match="seed 0"):
        compare_with_single_savepoints(open_bench, monkeypatch, 0)
