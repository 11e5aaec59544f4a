"""Redrives apply letters in order and exactly once, under the lock of the queue, and can be repeated."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.errors import DeploymentBroken
from sluice.runtime.fault_points import FaultInjected, faults
from sluice.runtime.handler_watch import limits
from sluice.stack.patience import patient
from sluice.tasks import letter_redriver
from sluice.tasks.api import Effect, Event, Upsert
from sluice.tasks.apply.apply import Applier
from sluice.tasks.installation.formats import NEWEST_FORMAT
from sluice.tasks.letter_redriver import LETTERS
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying, failing
from tests.db.tasks.applying import QUEUE, TOPIC, Bench, made, slice_of, thing_set, things
from tests.db.tasks.redriving import broken, hang, mend, parked, remembered, states
from tests.waiting import WAITING_BACKENDS, wait_until

bench, redriver = applying.bench, failing.redriver


def test_slow_letters_are_redriven_in_several_short_transactions(
    bench: Bench, redriver: Redriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply(slice_of([broken(0), thing_set(1, amount=5), thing_set(2, amount=7)]))
    mend(bench)
    monkeypatch.setattr(letter_redriver, "HANDLER_BUDGET_SECONDS", 0.0)
    done = [redriver.redrive_once("thing", "k") for _ in range(3)]
    assert [sum(one.outcomes.values()) for one in done] == [1, 1, 1]
    assert [one.unparked for one in done] == [False, False, True]
    assert {state for _, state, _ in states(bench)} == {"done"}


def test_a_dead_letter_parks_its_entity_and_other_entities_continue(bench: Bench) -> None:
    bench.apply(slice_of([broken(0), thing_set(1, amount=5), thing_set(2, "other", amount=6)]))
    bench.apply(slice_of([thing_set(3, amount=7)], prev=2))
    assert bench.amounts() == {"other": 6}
    assert bench.outcomes() == {"dead": 1, "waiting": 2, "applied": 1}
    assert states(bench) == [(0, "dead", "dead"), (1, "waiting", "waiting"), (3, "waiting", "waiting")]
    assert parked(bench) == [("k",)]


def test_letters_redriven_with_the_corrected_handler_are_applied_in_order_and_counted_once(
    bench: Bench, redriver: Redriver
) -> None:
    bench.apply(slice_of([broken(0), thing_set(1, amount=5), thing_set(2, amount=7)]))
    mend(bench)
    redriven = redriver.redrive_once("thing", "k")
    assert dict(redriven.outcomes) == {"applied": 3}
    assert redriven.unparked
    assert bench.amounts() == {"k": 7}
    assert bench.outcomes() == {"applied": 3}, "the counters no longer add up"
    assert remembered(bench) == [(0, "applied"), (1, "applied"), (2, "applied")]
    assert {state for _, state, _ in states(bench)} == {"done"}
    assert parked(bench) == []
    assert len(bench.look("SELECT id FROM sluice.outbox_events")) == 3
    bench.apply(slice_of([thing_set(3, amount=9)], prev=2))
    assert bench.amounts() == {"k": 9}


def test_an_event_that_postgres_refused_is_redriven_after_the_cause_is_removed(
    bench: Bench, redriver: Redriver
) -> None:
    bench.apply(slice_of([thing_set(0, amount=-1)]))
    bench.apply(slice_of([thing_set(1, "other", amount=6)], prev=0))
    assert redriver.redrive_once("thing", "k").blocked_by is not None
    assert parked(bench) == [("k",)]
    bench.look("ALTER TABLE things DROP CONSTRAINT amount_not_negative")
    assert redriver.redrive_once("thing", "k").unparked
    assert bench.amounts() == {"k": -1, "other": 6}
    assert bench.outcomes() == {"applied": 2}


def test_a_second_redrive_changes_nothing(bench: Bench, redriver: Redriver) -> None:
    bench.apply(slice_of([broken(0), thing_set(1, amount=5)]))
    mend(bench)
    redriver.redrive_once("thing", "k")
    again = redriver.redrive_once("thing", "k")
    assert not again.outcomes
    assert bench.outcomes() == {"applied": 2}
    assert len(bench.look("SELECT id FROM sluice.outbox_events")) == 2


def test_a_letter_of_a_newer_format_is_refused_and_earlier_letters_are_redriven(
    bench: Bench, redriver: Redriver
) -> None:
    bench.apply(slice_of([broken(0), thing_set(1, amount=5), thing_set(2, amount=7)]))
    mend(bench)
    bench.look('UPDATE sluice.dead_letters SET format = %s WHERE "offset" = 1', (NEWEST_FORMAT + 1,))
    redriven = redriver.redrive_once("thing", "k")
    assert (dict(redriven.outcomes), redriven.unparked) == ({"applied": 1}, False)
    refusal = f"things:0:1 is stored in format {NEWEST_FORMAT + 1}, this code reads format {NEWEST_FORMAT}"
    with pytest.raises(DeploymentBroken, match=refusal):
        redriver.redrive_once("thing", "k")
    assert [state for _, state, _ in states(bench)] == ["done", "waiting", "waiting"]
    assert parked(bench) == [("k",)]
    bench.look("UPDATE sluice.dead_letters SET format = 1")
    assert redriver.redrive_once("thing", "k").unparked
    assert bench.amounts() == {"k": 7}


def test_a_letter_that_fails_again_stays_at_the_head(bench: Bench, redriver: Redriver) -> None:
    bench.apply(slice_of([broken(0), thing_set(1, amount=5)]))
    redriven = redriver.redrive_once("thing", "k")
    assert redriven.blocked_by is not None
    assert "a fault in the handler" in redriven.blocked_by
    assert states(bench) == [(0, "dead", "dead"), (1, "waiting", "waiting")]
    assert bench.look("SELECT attempts FROM sluice.dead_letters ORDER BY id") == [(2,), (1,)]
    assert parked(bench) == [("k",)]
    assert bench.outcomes() == {"dead": 1, "waiting": 1}


def test_a_waiting_letter_that_fails_becomes_the_head(bench: Bench, redriver: Redriver) -> None:
    bench.apply(slice_of([broken(0), broken(1), thing_set(2, amount=5)]))
    (head,) = bench.look('SELECT id FROM sluice.dead_letters WHERE "offset" = 0')
    assert redriver.drop("thing", "k", head[0])
    assert not redriver.drop("thing", "k", head[0]), "the letter is dropped already"
    redriven = redriver.redrive_once("thing", "k")
    assert redriven.blocked_by is not None
    assert states(bench) == [(0, "dropped", "dead"), (1, "dead", "dead"), (2, "waiting", "waiting")]
    assert bench.outcomes() == {"dead": 2, "waiting": 1}
    mend(bench)
    assert redriver.redrive_once("thing", "k").unparked
    assert bench.outcomes() == {"dead": 1, "applied": 2}


def test_many_letters_are_redriven_in_several_transactions(bench: Bench, redriver: Redriver) -> None:
    count = LETTERS + 10
    bench.apply(slice_of([broken(0)]))
    bench.apply(slice_of([thing_set(n, amount=n) for n in range(1, count)], prev=0))
    mend(bench)
    first = redriver.redrive_once("thing", "k")
    assert not first.unparked
    # An event that arrives between two transactions waits behind the remaining letters.
    bench.apply(slice_of([thing_set(count, amount=count)], prev=count - 1))
    assert bench.outcomes()["waiting"] == 11
    assert redriver.redrive_once("thing", "k").unparked
    assert bench.amounts() == {"k": count}
    assert bench.outcomes() == {"applied": count + 1}


@pytest.mark.parametrize("point", ["redrive.before_commit", "redrive.committed"])
def test_an_interrupted_redrive_can_be_repeated(bench: Bench, redriver: Redriver, point: str) -> None:
    bench.apply(slice_of([broken(0), thing_set(1, amount=5)]))
    mend(bench)
    faults.arm(f"{point}:1:raise")
    try:
        with pytest.raises(FaultInjected):
            redriver.redrive_once("thing", "k")
    finally:
        faults.arm("")
    redriver.redrive_once("thing", "k")
    assert bench.amounts() == {"k": 5}
    assert bench.outcomes() == {"applied": 2}
    assert len(bench.look("SELECT id FROM sluice.outbox_events")) == 2


def test_a_redrive_waits_for_the_lock_of_the_queue(
    bench: Bench, redriver: Redriver, database_url: str
) -> None:
    bench.apply(slice_of([broken(0), thing_set(1, amount=5)]))
    mend(bench)
    holder = Session(database_url, application_name="holds the queue")
    holder.command(f"BEGIN; SELECT FROM sluice.queues WHERE queue = '{QUEUE}' FOR UPDATE")
    redriving = threading.Thread(target=redriver.redrive_once, args=("thing", "k"))
    redriving.start()
    wait_until(lambda: bench.look(WAITING_BACKENDS), timeout_seconds=5, what="the redrive waits")
    assert states(bench)[0] == (0, "dead", "dead")
    holder.command("COMMIT")
    holder.close()
    redriving.join(patient(30))
    assert bench.amounts() == {"k": 5}


def test_a_redriven_letter_that_code_can_now_decode_gets_the_identity_of_its_event(
    bench: Bench, redriver: Redriver, database_url: str
) -> None:
    bench.look("UPDATE sluice.queues SET accepted_deaths = 0")
    undecodable = made(0, "thing.set", amount="1")
    bench.apply(slice_of([undecodable]))
    bench.look("""UPDATE sluice.dead_letters SET value = convert_to('{"event_id":"e0","type":"thing.set",
        "version":0,"data":{"amount":3}}', 'UTF8'), identity = gen_random_uuid()""")
    bench.look("UPDATE sluice.processed_events e SET identity = (SELECT identity FROM sluice.dead_letters)")
    assert dict(redriver.redrive_once("thing", "k").outcomes) == {"applied": 1}
    assert bench.amounts() == {"k": 3}
    assert len(remembered(bench)) == 2, "one row is for the position and one row is for the event"
    # A producer's retry sends the same event again.
    bench.apply(slice_of([thing_set(1, amount=3, event_id="e0", version=0)], prev=0))
    assert bench.outcomes() == {"applied": 1, "duplicate": 1}


def test_another_worker_reads_which_entities_a_batch_has_parked(bench: Bench, database_url: str) -> None:
    bench.apply(slice_of([broken(0)]))
    session = Session(database_url, application_name="another worker", plans=BATCH_PLANS)
    applied = Applier(session, bench.registry).apply(QUEUE, [slice_of([thing_set(1)], prev=0)])
    session.close()
    assert applied is not None
    assert dict(applied.outcomes) == {"waiting": 1}
    assert bench.look("SELECT topic FROM sluice.dead_letters") == [(TOPIC,)] * 2


def test_a_letter_without_an_entity_is_redriven_alone(bench: Bench, redriver: Redriver) -> None:
    keyless = broken(0)._replace(key=b"\xff")
    bench.apply(slice_of([keyless, thing_set(1, amount=5)]))
    assert parked(bench) == []
    assert bench.amounts() == {"k": 5}
    ((letter_id,),) = bench.look("SELECT id FROM sluice.dead_letters")
    assert redriver.redrive_letter("thing", letter_id).blocked_by is not None
    assert bench.outcomes() == {"dead": 1, "applied": 1}

    def write_fixed(event: Event[dict[str, Any]]) -> Iterator[Effect]:
        yield Upsert(things, "fixed", {"amount": event.data["amount"], "name": None})

    (entry,) = bench.registry.handlers["thing.broken"]
    bench.registry.handlers["thing.broken"] = (replace(entry, function=write_fixed),)
    assert dict(redriver.redrive_letter("thing", letter_id).outcomes) == {"applied": 1}
    assert not redriver.redrive_letter("thing", letter_id).outcomes, "the letter is done"
    assert bench.outcomes() == {"applied": 2}


def test_a_handler_that_exceeds_its_time_limit_fails_again(
    bench: Bench, redriver: Redriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit of a handler is the same in a redrive and in a batch."""
    monkeypatch.setattr(limits, "seconds", 0.1)
    bench.apply(slice_of([broken(0)]))
    hang(bench)
    assert "HandlerTimedOut" in str(redriver.redrive_once("thing", "k").blocked_by)
    assert bench.look("SELECT error_class, state FROM sluice.dead_letters") == [("HandlerTimedOut", "dead")]
