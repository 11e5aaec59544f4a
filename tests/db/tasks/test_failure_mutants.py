"""No event waits without a reason, and no outage makes a dead letter. Mutants of these rules are caught."""

import threading
from collections.abc import Iterator

import pytest

from sluice.db import errors
from sluice.db.apply import dead_letters, guard
from sluice.db.connection import BATCH_PLANS, Session
from sluice.stack.patience import patient
from sluice.tasks.apply.apply import Applier
from sluice.tasks.redrive import Redriver
from tests.db.tasks.applying import QUEUE, Bench, create_tables, made, nothing_in_kafka, slice_of, thing_set
from tests.waiting import WAITING_BACKENDS, wait_until


@pytest.fixture
def bench(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # These tests interfere between two steps of the exact fold.
    monkeypatch.setenv("SLUICE_OPTIMISTIC", "never")
    create_tables(database_url)
    bench = Bench(database_url)
    yield bench
    bench.close()


def redrive_while_an_event_arrives(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Applies an event while a redrive unparks the event's entity.

    Returns True if the event still waits after the redrive, although its entity is no longer parked.
    """
    bench.apply(slice_of([made(0, "thing.broken", amount=1)]))
    bench.registry.handlers["thing.broken"] = bench.registry.handlers["thing.set"]
    applying = threading.Thread(target=lambda: bench.apply(slice_of([thing_set(1, amount=5)], prev=0)))
    unpark = dead_letters.unpark_if_clear

    def unpark_slowly(session: Session, entity: str, key: str, skipping: list[str]) -> bool:
        unparked = unpark(session, entity, key, skipping)
        applying.start()
        wait_until(
            lambda: bench.look(WAITING_BACKENDS) or not applying.is_alive(),
            timeout_seconds=10,
            what="the event waits for the queue or is applied",
        )
        return unparked

    monkeypatch.setattr(dead_letters, "unpark_if_clear", unpark_slowly)
    session = Session(bench.database_url, application_name="test redrive", plans=BATCH_PLANS)
    assert Redriver(session, bench.registry, nothing_in_kafka).redrive_once("thing", "k").unparked
    session.close()
    applying.join(patient(30))
    return bool(bench.look("SELECT id FROM sluice.dead_letters WHERE state = 'waiting'"))


def test_an_event_that_arrives_while_its_entity_is_unparked_is_applied(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not redrive_while_an_event_arrives(bench, monkeypatch)
    assert bench.amounts() == {"k": 5}


def test_a_mutant_that_unparks_without_the_lock_is_caught(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_queue = guard.lock_queue

    def not_for_redrives(session: Session, queue: str) -> bool:
        if threading.current_thread() is threading.main_thread() and bench.session is not session:
            return True
        return lock_queue(session, queue)

    monkeypatch.setattr(guard, "lock_queue", not_for_redrives)
    assert redrive_while_an_event_arrives(bench, monkeypatch), "the mutant leaves no event waiting"


def letters_of_a_locked_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> int:
    """Applies an event while its row is locked for a long time. Returns the number of dead letters."""
    monkeypatch.setattr("sluice.tasks.apply.retry_policy.PATIENCE_SECONDS", 3.0)
    bench.apply(slice_of([thing_set(0)]))
    holder = Session(bench.database_url, application_name="holds a row")
    holder.command("BEGIN; SELECT FROM public.things FOR UPDATE")
    Applier(bench.session, bench.registry).apply(QUEUE, [slice_of([thing_set(1, amount=5)], prev=0)])
    holder.command("COMMIT")
    holder.close()
    return len(bench.look("SELECT id FROM sluice.dead_letters"))


def test_a_lock_of_another_session_makes_no_dead_letter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert letters_of_a_locked_row(bench, monkeypatch) == 0
    bench.apply(slice_of([thing_set(1, amount=5)], prev=0))
    assert bench.amounts() == {"k": 5}


def test_a_mutant_with_dead_letters_for_transient_errors_is_caught(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(errors.FAULT_OF_CODE, "55P03", errors.Fault.EVENT)
    assert letters_of_a_locked_row(bench, monkeypatch) == 1


def test_a_deadlock_with_another_session_makes_no_dead_letter(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.apply(slice_of([thing_set(0, "k1"), thing_set(1, "k2")]))
    other = Session(bench.database_url, application_name="the other session")
    other.command("BEGIN; SELECT FROM public.things WHERE thing_id = 'k2' FOR UPDATE")
    batch = slice_of([thing_set(2, "k1", amount=5), thing_set(3, "k2", amount=6)], prev=1)
    applying = threading.Thread(target=lambda: bench.apply(batch))
    applying.start()
    wait_until(
        lambda: bench.look(WAITING_BACKENDS),
        timeout_seconds=10,
        what="the batch has locked one row and waits for the other row",
    )
    # Postgres ends the transaction that has waited longer, which is the batch. The batch is then retried.
    other.command("SELECT FROM public.things WHERE thing_id = 'k1' FOR UPDATE")
    other.command("COMMIT")
    other.close()
    applying.join(patient(30))
    wait_until(lambda: bench.amounts() == {"k1": 5, "k2": 6}, timeout_seconds=10, what="the batch is applied")
    assert bench.outcomes() == {"applied": 4}
    assert "deadlock detected" in "".join(capsys.readouterr()), (
        "no deadlock occurred, so this test proves nothing"
    )
    assert not bench.look("SELECT id FROM sluice.dead_letters")
