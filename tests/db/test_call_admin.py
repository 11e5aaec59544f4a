"""What an operator sees of calls and does to them, on real Postgres, beside workers that answer."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Thread
from typing import Any

import pytest

from db import calls
from db.audit import Decision
from db.call_admin import release_calls, settle_call
from db.call_listing import (
    Chosen,
    WholeCall,
    count_calls,
    count_open_calls,
    read_all_calls,
    read_call,
    read_call_conflicts,
    read_calls,
    read_calls_before,
)
from db.session import Session
from ops.effects.changes import MOVED, reconcile_call, retry_calls, settle_by_hand
from tasks.api import EffectCall, EffectDeclaration, JsonObject
from tasks.call_states import CallState
from tasks.handlers import EffectEntry
from tests.db.leaving import insert_call, rows
from tests.waiting import wait_until

DECISION = Decision("ann@host", "effects retry", "because")
NEVER = EffectDeclaration("notify", "ask", 10, 8, None, False, None)


def effects(reconcile: Callable[[EffectCall], JsonObject | None] | None = None) -> dict[str, EffectEntry]:
    declaration = replace(NEVER, reconcile=reconcile)
    return {"notify": EffectEntry(declaration, lambda call: {})}


@pytest.fixture
def make_session(database_url: str) -> Iterator[Callable[[], Session]]:
    made: list[Session] = []

    def make() -> Session:
        made.append(Session(database_url, application_name=f"test {len(made)}"))
        return made[-1]

    yield make
    for session in made:
        session.close()


@pytest.fixture
def session(make_session: Callable[[], Session]) -> Session:
    return make_session()


def read(session: Session, key: str) -> WholeCall:
    call = read_call(session, key)
    assert call is not None
    return call


def state(session: Session, key: str) -> str:
    return read(session, key).state


def audits(session: Session) -> list[tuple[Any, ...]]:
    return rows(session, "SELECT verb, subject, reason, details->>'to' FROM sluice.audit ORDER BY id")


def test_calls_are_counted_and_listed_by_what_is_chosen(session: Session) -> None:
    insert_call(session, "a", "failed", error="no")
    insert_call(session, "b", "pending", entity_key="other")
    insert_call(session, "c", "succeeded", effect="capture", created_at="2026-01-01 00:00+00")
    assert count_calls(session, Chosen()) == [
        ("capture", "succeeded", 1),
        ("notify", "failed", 1),
        ("notify", "pending", 1),
    ]

    def keys(chosen: Chosen, after: int = 0, limit: int = 10) -> list[str]:
        return [call.effect_key for call in read_calls(session, chosen, after=after, limit=limit)]

    assert keys(Chosen()) == ["a", "b", "c"]
    assert keys(Chosen(), after=read(session, "a").id, limit=1) == ["b"]
    assert keys(Chosen(state="failed")) == ["a"]
    assert keys(Chosen(effect="notify", entity_key="other")) == ["b"]
    assert keys(Chosen(older_than_seconds=60)) == ["c"]
    assert keys(Chosen(entity="payment")) == []
    assert [call.effect_key for call in read_all_calls(session, Chosen(effect="notify"))] == ["a", "b"]
    assert count_open_calls(session) == {"notify": 2}


def test_all_calls_are_read_page_by_page(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.call_listing.PAGE_ROWS", 2)
    for number in range(5):
        insert_call(session, f"k{number}")
    assert [call.effect_key for call in read_all_calls(session, Chosen())] == [f"k{n}" for n in range(5)]


@pytest.mark.parametrize("holding", [[], ["notify"]])
@pytest.mark.parametrize("earlier", ["pending", "running", "succeeded", "failed", "uncertain"])
@pytest.mark.parametrize("later", ["pending", "running", "failed"])
def test_what_holds_a_call_is_what_the_worker_finds(
    session: Session, earlier: str, later: str, holding: list[str]
) -> None:
    insert_call(session, "earlier", earlier)
    insert_call(session, "asked")
    insert_call(session, "later", later)
    insert_call(session, "other entity", "running", entity_key="other")
    insert_call(session, "no entity", "running", entity_key=None)
    with session.transaction():
        row = calls.lock_call(session, "asked")
        assert row is not None
        behind, _ = calls.lock_order(session, row, holding)
    found = read_calls_before(session, "asked", holding, limit=10)
    assert bool(found) == behind
    assert {key for key, _ in found} <= {"earlier", "later"}


def test_a_key_taken_with_other_args_is_listed_with_what_counts(session: Session) -> None:
    insert_call(session, "a", "succeeded")
    session.command(
        "INSERT INTO sluice.call_conflicts (effect_key, identity, args)"
        " VALUES ('a', gen_random_uuid(), '{\"to\": \"bob\"}')"
    )
    [conflict] = read_call_conflicts(session, "notify", after=0, limit=10)
    assert (conflict.args, conflict.made_args, conflict.state) == ({"to": "bob"}, {"to": "ann"}, "succeeded")
    assert read_call_conflicts(session, "capture", after=0, limit=10) == []
    assert read_call_conflicts(session, None, after=conflict.id, limit=10) == []


@pytest.mark.parametrize("before", ["failed", "uncertain"])
def test_a_released_call_is_as_if_never_tried_but_its_attempts_count_on(
    session: Session, before: str
) -> None:
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
    [change] = retry_calls(session, [read(session, "a")], effects(), DECISION, dry_run=True)
    assert (change.after, state(session, "a"), audits(session)) == ("pending", before, [])
    [change] = retry_calls(session, [read(session, "a")], effects(), DECISION, dry_run=False)
    assert (change.before, change.after) == (before, "pending")
    assert ("twice" in change.said) == (before == "uncertain")
    call = read(session, "a")
    assert (call.state, call.attempt, call.tried, call.ended_unknown) == ("pending", 8, 0, False)
    assert (call.first_attempt_at, call.dispatched_at, call.settled_at) == (None, None, None)
    assert audits(session) == [("effects retry", "a", "because", "pending")]
    told = calls.dispatch_calls(session, ["notify"], [], again_after_seconds=30, limit=10)
    assert told == [("a", "notify")]


@pytest.mark.parametrize("before", ["pending", "running", "succeeded"])
def test_no_other_call_is_released_or_settled(session: Session, before: str) -> None:
    insert_call(session, "a", before)
    call = read(session, "a")
    assert release_calls(session, [call]) == set()
    assert not settle_call(session, call, state="failed", response=None, error="no")
    [change] = retry_calls(session, [call], effects(), DECISION, dry_run=False)
    assert change.after is None
    assert settle_by_hand(session, call, CallState.FAILED, None, DECISION, dry_run=False).after is None
    assert reconcile_call(session, call, effects(lambda call: {}), DECISION, dry_run=False).after is None
    assert (state(session, "a"), audits(session)) == (before, [])


def test_a_call_of_an_effect_that_nobody_declares_is_not_released(session: Session) -> None:
    insert_call(session, "a", "failed", effect="send_fax")
    [change] = retry_calls(session, [read(session, "a")], effects(), DECISION, dry_run=False)
    assert (change.after, state(session, "a")) == (None, "failed")
    assert "send_fax" in change.said


def test_a_retry_of_a_call_that_just_succeeded_changes_nothing(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    call = read(session, "a")
    assert calls.store_success(session, "a", '{"id": 1}')
    [change] = retry_calls(session, [call], effects(), DECISION, dry_run=False)
    assert (change.after, change.said) == (None, MOVED)
    assert (read(session, "a").response, audits(session)) == ({"id": 1}, [])


def test_a_retry_that_meets_the_answer_being_stored_waits_and_changes_nothing(
    session: Session, make_session: Callable[[], Session]
) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    insert_call(session, "b", "uncertain", attempt=1, entity_key="other")
    known = [read(session, "a"), read(session, "b")]
    worker, operator = make_session(), make_session()
    released: list[set[str]] = []
    with worker.transaction():
        assert calls.store_success(worker, "a", "{}")
        thread = Thread(target=lambda: released.append(release_calls(operator, known)))
        thread.start()
        wait_until(
            lambda: rows(session, "SELECT count(*) FROM pg_locks WHERE NOT granted") == [(1,)],
            timeout_seconds=5,
            what="the operator waits for the worker",
        )
    thread.join()
    assert released == [{"b"}]
    assert (state(session, "a"), state(session, "b")) == ("succeeded", "pending")


def test_a_success_stored_between_reading_and_settling_wins(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    call = read(session, "a")
    assert calls.store_success(session, "a", '{"id": 1}')
    change = settle_by_hand(session, call, CallState.FAILED, None, DECISION, dry_run=False)
    assert (change.after, change.said) == (None, MOVED)
    assert (state(session, "a"), audits(session)) == ("succeeded", [])


def test_what_was_found_out_of_one_attempt_is_not_said_of_the_next(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    call = read(session, "a")
    release_calls(session, [call])
    calls.begin_attempt(session, "a", 30)
    assert calls.store_failure(
        session,
        "a",
        2,
        from_state="running",
        state="uncertain",
        error="cut off",
        ended_unknown=True,
        due_in_seconds=0,
    )
    assert release_calls(session, [call]) == set()
    assert not settle_call(session, call, state="failed", response=None, error="no")
    assert reconcile_call(session, call, effects(lambda call: None), DECISION, dry_run=False).said == MOVED
    assert (state(session, "a"), read(session, "a").attempt) == ("uncertain", 2)


def test_a_late_success_is_stored_after_a_call_was_settled_as_failed(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    settle_by_hand(session, read(session, "a"), CallState.FAILED, None, DECISION, dry_run=False)
    call = read(session, "a")
    assert (call.state, call.error) == ("failed", "settled by ann@host: because")
    assert calls.store_success(session, "a", "{}")


def test_a_call_is_settled_with_the_answer_given(session: Session) -> None:
    insert_call(session, "a", "uncertain", attempt=1, error="cut off")
    call = read(session, "a")
    change = settle_by_hand(session, call, CallState.SUCCEEDED, '{"id": 7}', DECISION, dry_run=True)
    assert (change.after, state(session, "a")) == ("succeeded", "uncertain")
    settle_by_hand(session, call, CallState.SUCCEEDED, '{"id": 7}', DECISION, dry_run=False)
    call = read(session, "a")
    assert (call.state, call.response, call.error) == ("succeeded", {"id": 7}, None)
    assert call.settled_at is not None
    assert audits(session) == [("effects retry", "a", "because", "succeeded")]


def fail(call: EffectCall) -> JsonObject | None:
    raise TimeoutError("provider away")


@pytest.mark.parametrize(
    ("reconcile", "after", "said"),
    [
        (lambda call: {"id": call.key, "to": call.args["to"]}, "succeeded", '"to":"ann"'),
        (lambda call: None, "pending", "certainly not made"),
        (fail, "uncertain", "TimeoutError: provider away"),
        (None, "uncertain", "notify has no reconcile function"),
    ],
)
def test_what_the_provider_says_is_stored(
    session: Session, reconcile: Callable[[EffectCall], JsonObject | None] | None, after: str, said: str
) -> None:
    insert_call(session, "a", "uncertain", attempt=1, tried=1, ended_unknown=True)
    for dry_run in (True, False):
        call = read(session, "a")
        assert call.state == "uncertain"
        change = reconcile_call(session, call, effects(reconcile), DECISION, dry_run=dry_run)
        assert change.after == (None if after == "uncertain" else after)
        assert said in change.said
    assert state(session, "a") == after
    assert len(audits(session)) == (after != "uncertain")


def test_a_call_found_at_the_provider_is_not_made_again_though_it_was_released_meanwhile(
    session: Session,
) -> None:
    insert_call(session, "a", "uncertain", attempt=1)
    call = read(session, "a")

    def find(asked: EffectCall) -> JsonObject:
        release_calls(session, [call])
        return {"id": asked.key}

    assert reconcile_call(session, call, effects(find), DECISION, dry_run=False).after == "succeeded"
    assert state(session, "a") == "succeeded"
    calls.begin_attempt(session, "a", 30)
    assert state(session, "a") == "succeeded"
