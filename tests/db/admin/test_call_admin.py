"""Operator commands that change calls, on a real Postgres, while workers store answers."""

from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest

from sluice.admin.effects import MOVED, reconcile_call, require_call, retry_calls, settle_by_hand
from sluice.db.admin.audit import Decision
from sluice.db.admin.call_admin import release_calls, settle_call
from sluice.db.connection import Session
from sluice.db.records import CallState
from sluice.db.sending import calls, dispatching
from sluice.tasks.api import EffectCall, EffectDeclaration, JsonObject
from sluice.tasks.fold.registry import EffectEntry
from tests.db.admin.leaving import insert_call, rows
from tests.waiting import WAITING_BACKENDS, wait_until

DECISION = Decision("ann@host", "effects retry", "because")
NEVER = EffectDeclaration("notify", "ask", 10, 8, None, False, None)


def effects(reconcile: Callable[[EffectCall], JsonObject | None] | None = None) -> dict[str, EffectEntry]:
    declaration = replace(NEVER, reconcile=reconcile)
    return {"notify": EffectEntry(declaration, lambda call: {})}


def state(session: Session, key: str) -> str:
    return require_call(session, key).state


def audits(session: Session) -> list[tuple[Any, ...]]:
    return rows(session, "SELECT verb, subject, reason, details->>'to' FROM sluice.audit ORDER BY id")


@pytest.mark.parametrize("before", ["failed", "uncertain"])
def test_a_released_call_is_reset_but_keeps_its_attempt_number(session: Session, before: str) -> None:
    insert_call(
        session,
        "a",
        before,
        attempt=8,
        tried=8,
        ended_unknown=True,
        first_attempt_at="2026-01-01 00:00+00",
        dispatched_at="2026-01-01 00:00+00",
        settled_at="2026-01-01 00:00+00",
        due_at="2036-01-01 00:00+00",
    )
    [change] = retry_calls(session, [require_call(session, "a")], effects(), DECISION, dry_run=True)
    assert (change.after, state(session, "a"), audits(session)) == ("pending", before, [])
    [change] = retry_calls(session, [require_call(session, "a")], effects(), DECISION, dry_run=False)
    assert (change.before, change.after) == (before, "pending")
    assert ("twice" in change.said) == (before == "uncertain")
    call = require_call(session, "a")
    assert (call.state, call.attempt, call.tried, call.ended_unknown) == ("pending", 8, 0, False)
    assert (call.first_attempt_at, call.dispatched_at, call.settled_at) == (None, None, None)
    assert audits(session) == [("effects retry", "a", "because", "pending")]
    dispatched = dispatching.dispatch_calls(
        session, ["notify"], [], again_after_seconds=30, limit=10, newest_format=1
    )
    assert dispatched == [("a", "notify")]


@pytest.mark.parametrize("before", ["pending", "running", "succeeded"])
def test_only_failed_and_uncertain_calls_are_released_or_settled(session: Session, before: str) -> None:
    insert_call(session, "a", before)
    call = require_call(session, "a")
    assert release_calls(session, [call]) == set()
    assert not settle_call(session, call, state=CallState.FAILED, response=None, error="no")
    [change] = retry_calls(session, [call], effects(), DECISION, dry_run=False)
    assert change.after is None
    assert settle_by_hand(session, call, CallState.FAILED, None, DECISION, dry_run=False).after is None
    assert reconcile_call(session, call, effects(lambda call: {}), DECISION, dry_run=False).after is None
    assert (state(session, "a"), audits(session)) == (before, [])


def test_a_call_of_an_undeclared_effect_is_not_released(session: Session) -> None:
    insert_call(session, "a", "failed", effect="send_fax")
    [change] = retry_calls(session, [require_call(session, "a")], effects(), DECISION, dry_run=False)
    assert (change.after, state(session, "a")) == (None, "failed")
    assert "send_fax" in change.said


def test_a_retry_of_a_call_that_just_succeeded_changes_nothing(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    call = require_call(session, "a")
    assert calls.store_success(session, "a", '{"id": 1}')
    [change] = retry_calls(session, [call], effects(), DECISION, dry_run=False)
    assert (change.after, change.said) == (None, MOVED)
    assert (require_call(session, "a").response, audits(session)) == ({"id": 1}, [])


def test_a_retry_waits_while_a_worker_stores_an_answer_and_skips_the_answered_call(
    session: Session, make_session: Callable[[], Session]
) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    insert_call(session, "b", "uncertain", attempt=1, entity_key="other")
    known = [require_call(session, "a"), require_call(session, "b")]
    worker, operator = make_session(), make_session()
    released: list[set[str]] = []
    with worker.transaction():
        assert calls.store_success(worker, "a", "{}")
        thread = Thread(target=lambda: released.append(release_calls(operator, known)))
        thread.start()
        wait_until(
            lambda: len(rows(session, WAITING_BACKENDS)) == 1,
            timeout_seconds=5,
            what="the operator waits for the worker",
        )
    thread.join()
    assert released == [{"b"}]
    assert (state(session, "a"), state(session, "b")) == ("succeeded", "pending")


def test_settling_keeps_a_success_stored_after_the_call_was_read(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    call = require_call(session, "a")
    assert calls.store_success(session, "a", '{"id": 1}')
    change = settle_by_hand(session, call, CallState.FAILED, None, DECISION, dry_run=False)
    assert (change.after, change.said) == (None, MOVED)
    assert (state(session, "a"), audits(session)) == ("succeeded", [])


def test_a_decision_about_one_attempt_does_not_change_the_next_attempt(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    call = require_call(session, "a")
    release_calls(session, [call])
    calls.begin_attempt(session, "a", 30)
    assert calls.store_failure(
        session,
        "a",
        2,
        from_state="running",
        state=CallState.UNCERTAIN,
        error="connection lost",
        ended_unknown=True,
        due_in_seconds=0,
        counts=True,
    )
    assert release_calls(session, [call]) == set()
    assert not settle_call(session, call, state=CallState.FAILED, response=None, error="no")
    assert reconcile_call(session, call, effects(lambda call: None), DECISION, dry_run=False).said == MOVED
    assert (state(session, "a"), require_call(session, "a").attempt) == ("uncertain", 2)


def test_a_late_success_is_stored_after_a_call_was_settled_as_failed(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    settle_by_hand(session, require_call(session, "a"), CallState.FAILED, None, DECISION, dry_run=False)
    call = require_call(session, "a")
    assert (call.state, call.error) == ("failed", "settled by ann@host: because")
    assert calls.store_success(session, "a", "{}")


def test_a_call_is_settled_with_the_given_answer(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1, error="connection lost")
    call = require_call(session, "a")
    change = settle_by_hand(session, call, CallState.SUCCEEDED, '{"id": 7}', DECISION, dry_run=True)
    assert (change.after, state(session, "a")) == ("succeeded", "uncertain")
    settle_by_hand(session, call, CallState.SUCCEEDED, '{"id": 7}', DECISION, dry_run=False)
    call = require_call(session, "a")
    assert (call.state, call.response, call.error) == ("succeeded", {"id": 7}, None)
    assert call.settled_at is not None
    assert audits(session) == [("effects retry", "a", "because", "succeeded")]


def fail(call: EffectCall) -> JsonObject | None:
    raise TimeoutError("provider unreachable")


@pytest.mark.parametrize(
    ("reconcile", "after", "said"),
    [
        (lambda call: {"id": call.key, "to": call.args["to"]}, "succeeded", '"to":"ann"'),
        (lambda call: None, "pending", "certainly not made"),
        (fail, "uncertain", "TimeoutError: provider unreachable"),
        (None, "uncertain", "notify has no reconcile function"),
    ],
)
def test_the_result_of_the_reconcile_function_is_stored(
    session: Session, reconcile: Callable[[EffectCall], JsonObject | None] | None, after: str, said: str
) -> None:
    insert_call(session, "a", "uncertain", attempt=1, tried=1, ended_unknown=True)
    for dry_run in (True, False):
        call = require_call(session, "a")
        assert call.state == "uncertain"
        change = reconcile_call(session, call, effects(reconcile), DECISION, dry_run=dry_run)
        assert change.after == (None if after == "uncertain" else after)
        assert said in change.said
    assert state(session, "a") == after
    assert len(audits(session)) == (after != "uncertain")


def test_a_call_that_reconcile_finds_is_not_repeated_even_if_it_was_released(
    session: Session,
) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    call = require_call(session, "a")

    def find(asked: EffectCall) -> JsonObject:
        release_calls(session, [call])
        return {"id": asked.key}

    assert reconcile_call(session, call, effects(find), DECISION, dry_run=False).after == "succeeded"
    assert state(session, "a") == "succeeded"
    calls.begin_attempt(session, "a", 30)
    assert state(session, "a") == "succeeded"
