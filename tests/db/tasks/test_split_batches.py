"""A batch is split if its handlers are slow, if it failed, or if it has too many writes for one statement."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sluice.db.admin.doctor_facts import read_narrowed_queues
from sluice.db.connection import BATCH_PLANS, Session
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place
from sluice.tasks.api import Call, Effect, Emit, Event, Read, Upsert
from sluice.tasks.apply import batch_writer, chunks, retry_policy
from sluice.tasks.apply.apply import Applier
from sluice.tasks.redrive import Redriver
from tests.db.tasks.applying import QUEUE, TOPIC, Bench, create_tables, made, slice_of, thing_set, things
from tests.db.tasks.test_faults import MEND, trigger
from tests.waiting import wait_until

OpenBench = Callable[..., Bench]


@pytest.fixture
def open_bench(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenBench]:
    """Yields a function that opens a test bench with short timeouts on the application's database."""
    monkeypatch.setattr(retry_policy, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(retry_policy, "FIRST_PAUSE_SECONDS", 0.01)
    create_tables(database_url)
    opened: list[Bench] = []

    def open_one(**settings: str) -> Bench:
        bench = Bench(database_url)
        bench.session.close()
        limits = {"lock_timeout": "200ms", "statement_timeout": "1s"} | settings
        bench.session = Session(database_url, application_name="test", plans=BATCH_PLANS, settings=limits)
        bench.applier = Applier(bench.session, bench.registry)
        opened.append(bench)
        return bench

    yield open_one
    for bench in opened:
        bench.close()


def failures(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.look('SELECT "offset", failures, batch_limit FROM sluice.queue_failures')


# This failure concerns the whole transaction, so the worker sets no event aside.
FAILING = trigger("IF NEW.thing_id = 'bad' THEN RAISE 'failing' USING ERRCODE = '40001'; END IF; RETURN NEW;")


def test_after_failures_of_any_workers_the_batch_ends_before_the_failing_event(
    open_bench: OpenBench,
) -> None:
    bench = open_bench()
    bench.look(FAILING)
    batch = slice_of([thing_set(n, "bad" if n == 5 else f"k{n}") for n in range(8)])

    def apply_elsewhere() -> bool:
        # Each call simulates another worker, which reads the earlier failures from Postgres.
        open_bench().apply(batch)
        return any(failed[0] == 5 and failed[1] > 0 and failed[2] == 1 for failed in failures(bench))

    wait_until(apply_elsewhere, timeout_seconds=60, what="the event fails alone")
    assert bench.outcomes() == {"applied": 5}
    [narrowed] = read_narrowed_queues(bench.looking)
    assert narrowed[:5] == (QUEUE, TOPIC, 0, 5, 1)
    assert "failing" in narrowed.error
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]
    bench.look(MEND)
    wait_until(lambda: bench.apply(batch), timeout_seconds=60, what="the batch is applied")
    assert bench.outcomes() == {"applied": 8}
    for n in range(8, 18):
        assert bench.apply(slice_of([thing_set(n)], prev=n - 1)) is not None
    assert failures(bench) == []


def test_a_batch_without_failures_writes_no_count(open_bench: OpenBench) -> None:
    bench = open_bench()
    assert bench.apply(slice_of([thing_set(0), thing_set(1)])) is not None
    assert failures(bench) == []


def test_an_event_with_a_held_row_is_set_aside_if_another_is_applied(
    open_bench: OpenBench, database_url: str
) -> None:
    bench = open_bench()
    bench.apply(slice_of([thing_set(0, "held")]))
    holder = Session(database_url, application_name="holder")
    holder.command("BEGIN; SELECT FROM public.things WHERE thing_id = 'held' FOR UPDATE")
    alone = slice_of([thing_set(1, "held", 5)], prev=0)
    assert bench.apply(alone) is None
    assert bench.outcomes() == {"applied": 1}
    both = slice_of([thing_set(1, "held", 5), thing_set(2, "other", 6), thing_set(3, "held", 7)], prev=0)
    for _ in range(9):
        # After these failures, the worker applies batches of one event.
        bench.apply(alone)
    wait_until(lambda: bench.apply(both), timeout_seconds=60, what="the batch is applied")
    assert bench.outcomes() == {"applied": 2, "waiting": 2}
    holder.close()


def test_slow_handlers_with_reads_stay_below_the_idle_limit(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_policy, "PATIENCE_SECONDS", 20.0)
    monkeypatch.setattr(batch_writer, "HANDLER_BUDGET_SECONDS", 0.05)
    bench = open_bench(idle_in_transaction_session_timeout="600ms")

    def slow(event: Event[Any]) -> Iterator[Effect]:
        yield Read(things, event.key)
        time.sleep(0.03)
        yield Upsert(things, event.key, {"amount": 1, "name": None})

    [entry] = bench.registry.handlers["thing.set"]
    bench.registry.handlers["thing.set"] = (replace(entry, function=slow, data_type=Any),)
    applied = bench.apply(slice_of([thing_set(n, f"k{n}") for n in range(40)]))
    assert applied is not None
    assert applied.outcomes == {"applied": 40}
    assert applied.judgements["next"] > 2, "the batch must be applied in several transactions"
    assert failures(bench) == []


def test_a_batch_with_slow_handlers_is_applied_in_several_transactions(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_policy, "PATIENCE_SECONDS", 20.0)
    monkeypatch.setattr(chunks, "HANDLER_BUDGET_SECONDS", 0.0)
    bench = open_bench()
    applied = bench.apply(slice_of([thing_set(n, f"k{n}") for n in range(4)]))
    assert applied is not None
    assert dict(applied.judgements) == {"next": 4}
    assert bench.outcomes() == {"applied": 4}


def test_a_task_whose_time_ends_leaves_the_other_events_to_the_next_task(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.tasks.apply.apply.PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(chunks, "HANDLER_BUDGET_SECONDS", 0.0)
    bench = open_bench()
    batch = slice_of([thing_set(n, f"k{n}") for n in range(3)])
    for n in range(1, 4):
        assert bench.apply(batch) is not None
        assert bench.outcomes() == {"applied": n}


def test_the_writes_of_one_event_are_split_into_statements_in_order(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.db.values.ROWS_OF_A_STATEMENT", 3)
    bench = open_bench()

    def many(event: Event[Any]) -> Iterator[Effect]:
        for n in range(10):
            yield Upsert(things, f"k{n}", {"amount": event.version, "name": None})
            yield Emit("things-out", key="k", type="thing.seen", data={"n": n})
            yield Call("notify", args={"n": n})

    [entry] = bench.registry.handlers["thing.set"]
    bench.registry.handlers["thing.set"] = (replace(entry, function=many, data_type=Any),)
    for version in (0, 1):
        assert bench.apply(slice_of([thing_set(version)], prev=version - 1)) is not None
        assert bench.amounts() == {f"k{n}": version for n in range(10)}
    order = "SELECT convert_from(payload, 'UTF8')::jsonb -> 'n' FROM sluice.outbox_events ORDER BY id"
    assert bench.look(order) == [(n % 10,) for n in range(20)]
    assert bench.look("SELECT args -> 'n' FROM sluice.executed_side_effects ORDER BY id") == [
        (n % 10,) for n in range(20)
    ]


def test_a_letter_that_is_stored_too_slowly_is_redriven_from_kafka(
    open_bench: OpenBench,
) -> None:
    bench = open_bench()
    bench.look("""
        CREATE FUNCTION sluice.slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF length(NEW.value) > 100000 THEN PERFORM pg_sleep(9); END IF; RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON sluice.dead_letters FOR EACH ROW EXECUTE FUNCTION sluice.slow()
    """)
    large = made(0, "thing.broken", "k", pad="x" * 200_000)
    refused = made(1, "thing.set", "l", amount=-1, pad="x" * 200_000)
    batch = slice_of([large, refused, thing_set(2, "m")])
    wait_until(lambda: bench.apply(batch), timeout_seconds=60, what="the batch is applied")
    assert bench.outcomes() == {"applied": 1, "dead": 2}
    letters = bench.look("SELECT value, flaw, error_text FROM sluice.dead_letters ORDER BY id")
    for record, (value, flaw, text) in zip([large, refused], letters, strict=True):
        assert value is None
        assert flaw["sha256"] == hashlib.sha256(record.value or b"").hexdigest()
        assert text.endswith("a redrive reads the value from Kafka)")
    bench.registry.handlers["thing.broken"] = ()

    def read_whole(place: Place, offset: int) -> Record:
        return [large, refused][offset]

    redriver = Redriver(bench.looking, bench.registry, read_whole)
    bench.look("ALTER TABLE things DROP CONSTRAINT amount_not_negative")
    assert redriver.redrive_once("thing", "l").outcomes == {"applied": 1}
