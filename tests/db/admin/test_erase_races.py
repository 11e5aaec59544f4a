"""Erasures that are interrupted, or run at the same time as batches, rebuilds, copies or other erasures."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.erased_texts import erase_settled_calls
from sluice.admin.rebuild.generation_locks import Held, copying
from sluice.db.admin import erasing as db_erasing
from sluice.db.connection import Session
from sluice.runtime.fault_points import FaultInjected, faults
from sluice.stack.patience import patient
from tests.db.admin import erasing
from tests.db.admin.erasing import KEY, erase_key, mentions, of, registry, sent
from tests.db.tasks.applying import made
from tests.db.tasks.projecting import Bench
from tests.waiting import WAITING_BACKENDS, wait_until

bench = erasing.bench


@pytest.fixture(autouse=True)
def unarmed() -> Iterator[None]:
    yield
    faults.arm("")


@contextmanager
def held(bench: Bench, lock: str, then: str) -> Iterator[None]:
    """Runs an erasure that waits for a lock. The session with the lock then runs `then` and commits."""
    holder = Session(bench.database_url, application_name="a holder")
    holder.command(f"BEGIN; {lock}")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            erase_key(bench.with_code(registry()))
        except BaseException as error:
            errors.append(error)

    work = threading.Thread(target=run)
    work.start()
    wait_until(lambda: bench.look(WAITING_BACKENDS), timeout_seconds=10, what="the erasure waits")
    holder.command(f"{then}; COMMIT")
    holder.close()
    work.join(patient(30))
    assert errors == []
    yield


@pytest.mark.parametrize(
    ("lock", "then"),
    [
        (
            "SELECT FROM sluice.queues WHERE queue = 'thing.0' FOR UPDATE",
            f"INSERT INTO public.things (thing_id, amount) VALUES ('{KEY}', 1)",
        ),
        (
            "SELECT FROM sluice.generation_lanes WHERE generation = 2 FOR UPDATE",
            f"INSERT INTO public.totals_g2 (thing_id, amount, seen) VALUES ('{KEY}', 1, 1)",
        ),
    ],
    ids=["batch", "chunk"],
)
def test_rows_written_while_the_erasure_waits_are_erased(bench: Bench, lock: str, then: str) -> None:
    bench.live(of(KEY, 0), of("bob", 1))
    bench.rebuild(bench.begin())
    sent(bench)
    bench.look("DELETE FROM public.things; DELETE FROM public.totals_g2")
    with held(bench, lock, then):
        assert mentions(bench) == []


def test_an_erasure_waits_for_the_first_rebuild_chunk_of_a_lane(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    bench.begin()
    sent(bench)
    bench.look("DELETE FROM sluice.generation_lanes")
    lane = (
        "INSERT INTO sluice.generation_lanes"
        " (projection, generation, topic, partition, queue, applied_offset)"
        " VALUES ('totals', 2, 'things', 0, 'thing.0', 0)"
    )
    with held(bench, lane, f"INSERT INTO public.totals_g2 (thing_id, amount, seen) VALUES ('{KEY}', 1, 1)"):
        assert mentions(bench) == []


def test_erasures_and_checkpoints_are_refused_during_a_copy(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    other = Session(bench.database_url, application_name="a copy")
    with copying(other, "totals"):
        with pytest.raises(OperationRefused, match="copying or erasing rows of totals"):
            erase_key(bench)
        with pytest.raises(Held):
            bench.checkpoint("kept")
    other.close()
    assert erase_key(bench).rows["things"] == 1
    assert bench.checkpoint("kept")


@pytest.mark.parametrize(("point", "rows"), [("erase.before_commit", 1), ("erase.committed", 0)])
def test_the_next_run_completes_a_killed_erasure(bench: Bench, point: str, rows: int) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    faults.arm(f"{point}:1:raise")
    with pytest.raises(FaultInjected):
        erase_key(bench)
    assert len(bench.amounts()) == rows
    assert mentions(bench)
    erase_key(bench)
    assert mentions(bench) == []


@pytest.mark.parametrize("earlier", [0, 1])
def test_erasures_are_committed_in_the_order_of_their_ids(bench: Bench, earlier: int) -> None:
    """A process that has read the second erasure must also have read the first.

    The test runs before and after the erasure key exists: the earlier erasure creates this key.
    """
    bench.live(of(KEY, 0), of("bob", 1))
    sent(bench)
    for _ in range(earlier):
        erase_key(bench, "cid")
    first = Session(bench.database_url, application_name="first")
    with first.transaction():
        db_erasing.lock_erasure_key(first, bytes(32))
        second = threading.Thread(target=lambda: erase_key(bench.with_code(registry()), "bob"))
        second.start()
        wait_until(lambda: bench.look(WAITING_BACKENDS), timeout_seconds=10, what="the second erasure waits")
        assert bench.look("SELECT count(*) FROM sluice.erasures") == [(earlier,)]
    first.close()
    second.join(patient(30))
    assert bench.amounts() == {KEY: 0}


def test_an_erasure_keeps_a_call_that_a_batch_adds_later(bench: Bench) -> None:
    """The transaction of the batch began before the erasure, and then waited for the lock of the queue."""
    bench.live(of(KEY, 0))
    sent(bench)
    late = Session(bench.database_url, application_name="late")
    late.command("BEGIN; SELECT now()")
    faults.arm("erase.committed:1:raise")
    with pytest.raises(FaultInjected):
        erase_key(bench)
    late.command(f"""
        INSERT INTO sluice.executed_side_effects
            (effect_key, effect, identity, entity, entity_key, args, fingerprint, explicit_once, state)
        VALUES ('notify:late', 'notify', gen_random_uuid(), 'thing', '{KEY}', '{{}}', gen_random_uuid(),
                false, 'succeeded');
        COMMIT
    """)
    late.close()
    [(erased_at,)] = bench.look("SELECT erased_at FROM sluice.erasures")
    erase_settled_calls(bench.session, bytes(32), "thing", KEY, erased_at, dry_run=False)
    left = bench.look("SELECT effect_key FROM sluice.executed_side_effects WHERE entity_key IS NOT NULL")
    assert left == [("notify:late",)]


def test_an_erasure_is_refused_while_another_row_refers_to_its_row(bench: Bench) -> None:
    bench.live(of(KEY, 0), made(1, "part.added", "p", thing_id=KEY))
    sent(bench)
    with pytest.raises(OperationRefused, match=r"table parts refer .*part_of_thing.*nothing was erased"):
        erase_key(bench)
    assert bench.amounts() == {KEY: 0}
    bench.look("DELETE FROM public.parts")
    assert erase_key(bench).rows["things"] == 1


def test_a_dry_run_checks_deferred_constraints(bench: Bench) -> None:
    bench.live(of(KEY, 0), made(1, "part.added", "p", thing_id=KEY))
    sent(bench)
    with pytest.raises(OperationRefused, match=r"table parts refer .*nothing was erased"):
        erase_key(bench, dry_run=True)


def test_a_row_is_deleted_before_the_row_that_it_refers_to(bench: Bench) -> None:
    bench.live(of(KEY, 0), made(1, "part.added", KEY, thing_id=KEY))
    sent(bench)
    bench.look("ALTER TABLE public.parts ALTER CONSTRAINT part_of_thing NOT DEFERRABLE")
    rows = erase_key(bench).rows
    assert (rows["parts"], rows["things"]) == (1, 1)


def test_an_erasure_is_refused_if_a_trigger_keeps_the_row(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    bench.look(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER kept BEFORE DELETE ON public.things FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    with pytest.raises(OperationRefused, match="table things keeps its row of this key"):
        erase_key(bench)
