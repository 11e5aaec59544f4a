"""Calls that wait behind a call of their entity do not slow down other calls, even if many wait."""

from collections.abc import Iterator
from contextlib import closing
from types import ModuleType
from typing import Any

import pytest

from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.records import CallState
from sluice.db.sending import calls, dispatching
from tests.db.tasks.recording import RecordingSession
from tests.mutants import mutate_statement

HELD, OTHERS = 3_000, 20
ENDED = 5_000
MOST_PAGES = 64


@pytest.fixture
def recording(database_url: str) -> Iterator[RecordingSession]:
    session = RecordingSession(database_url, application_name="test held", plans=QUEUE_PLANS)
    session.ran = []
    yield session
    session.close()


def insert_calls(session: Session, prefix: str, entity_key: str, number: int, minutes: int) -> None:
    """Inserts due calls of one entity. With a "-" in `entity_key`, each call has its own entity."""
    session.command(
        "INSERT INTO sluice.executed_side_effects (effect_key, effect, identity, entity, entity_key, args,"
        " fingerprint, explicit_once, due_at)"
        f" SELECT '{prefix}' || n, 'notify', gen_random_uuid(), 'order',"
        f" replace('{entity_key}', '-', n::text),"
        f" '{{}}', gen_random_uuid(), false, now() - make_interval(mins => {minutes}, secs => -n * 0.001)"
        f" FROM generate_series(1, {number}) AS n"
    )


def dispatched(
    session: Session,
    limit: int = 500,
    holding: tuple[str, ...] = ("notify",),
    due_since: str = dispatching.EVER,
) -> list[str]:
    found = dispatching.dispatch_calls(
        session,
        ["notify"],
        holding,
        again_after_seconds=60,
        limit=limit,
        newest_format=1,
        due_since=due_since,
    )
    return [key for key, _ in found]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def pages(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize("head", [CallState.FAILED, CallState.RUNNING, CallState.PENDING])
def test_held_calls_are_checked_once_per_entity(
    recording: RecordingSession, session: Session, head: CallState
) -> None:
    insert_calls(session, "held", "k", HELD, 60)
    session.command(
        f"UPDATE sluice.executed_side_effects SET state = '{head}', claimed_until = now() + interval '1 h'"
        " WHERE effect_key = 'held1'"
    )
    insert_calls(session, "other", "other-", OTHERS, 1)
    session.command("ANALYZE sluice.executed_side_effects")
    others = [f"other{n}" for n in range(1, OTHERS + 1)]
    expected = ["held1", *others] if head is CallState.PENDING else others
    assert sorted(dispatched(recording)) == sorted(expected)
    session.command("UPDATE sluice.executed_side_effects SET dispatched_at = NULL")
    [statement, values] = recording.ran[-1]
    plan = recording.explain(statement, values)
    probes = [one for one in nodes(plan) if one.get("Index Name") == "executed_side_effects_open_idx"]
    assert sum(one["Actual Loops"] for one in probes) <= 2 * (OTHERS + 1), (
        "there are two index probes per entity, one for its row and one for the rows before it"
    )
    assert sum(pages(one) for one in probes) <= 16 * (OTHERS + 1), (
        "the index probe for the first of many calls reads none of the other calls"
    )


def test_the_first_of_many_calls_is_claimed_without_reading_the_others(
    recording: RecordingSession, session: Session
) -> None:
    insert_calls(session, "held", "k", HELD, 60)
    session.command("ANALYZE sluice.executed_side_effects")
    with recording.transaction():
        row = calls.lock_call(recording, "held1")
        assert row is not None
        assert calls.lock_order(recording, row, ["notify"]) == (False, False)
    assert pages(recording.explain(*recording.ran[-1])) <= 20


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_calls_behind_more_held_calls_than_the_first_read_covers_are_found(
    recording: RecordingSession, session: Session, limit: int
) -> None:
    insert_calls(session, "held", "k", limit * dispatching.LOOKED_AT_PER_CALL + 5, 60)
    insert_calls(session, "other", "other-", 3, 1)
    assert dispatched(recording, limit) == ["held1", "other1", "other2", "other3"][:limit]


@pytest.mark.parametrize("running", [1, 2, 3])
def test_a_running_call_holds_the_others_even_if_the_effect_does_not_hold(
    recording: RecordingSession, session: Session, running: int
) -> None:
    insert_calls(session, "call", "k", 3, 1)
    session.command(
        "UPDATE sluice.executed_side_effects SET state = 'running', claimed_until = now()"
        f" WHERE effect_key = 'call{running}'"
    )
    assert dispatched(recording, holding=()) == []
    session.command("UPDATE sluice.executed_side_effects SET state = 'failed' WHERE state = 'running'")
    assert dispatched(recording, holding=()) == ["call2" if running == 1 else "call1"]


def test_calls_without_an_entity_never_hold_each_other(recording: RecordingSession, session: Session) -> None:
    insert_calls(session, "free", "k", 5, 1)
    session.command("UPDATE sluice.executed_side_effects SET entity_key = NULL")
    assert dispatched(recording) == [f"free{n}" for n in range(1, 6)]


def test_the_oldest_call_is_made_first_even_if_a_later_call_is_due_earlier(
    recording: RecordingSession, session: Session
) -> None:
    insert_calls(session, "call", "k", 3, 1)
    session.command(
        "UPDATE sluice.executed_side_effects SET due_at = now() - interval '1 h' WHERE effect_key = 'call3'"
    )
    assert dispatched(recording) == ["call1"]
    session.command(
        "UPDATE sluice.executed_side_effects SET due_at = now() + interval '1 h', dispatched_at = NULL"
        " WHERE effect_key = 'call1'"
    )
    assert dispatched(recording) == [], "the oldest call is due later, and the other calls wait for it"


@pytest.fixture
def ended(session: Session, database_url: str) -> Iterator[None]:
    """Calls that were made since an old snapshot began, each of its own entity, and one due call."""
    with closing(Session(database_url, application_name="old")) as old:
        old.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM sluice.switches")
        insert_calls(session, "ended", "ended-", ENDED, 60)
        session.command(
            "UPDATE sluice.executed_side_effects SET state = 'running',"
            " claimed_until = now() + interval '1 h'"
        )
        session.command("UPDATE sluice.executed_side_effects SET state = 'succeeded', claimed_until = NULL")
        insert_calls(session, "other", "other-", 1, 1)
        session.command("ANALYZE sluice.executed_side_effects")
        yield


def pages_of_a_dispatch(recording: RecordingSession) -> int:
    """Returns the pages of a dispatch and of the look at the due calls before it."""
    since = dispatching.read_due_since(recording, ["notify"])
    recording.ran.clear()
    assert dispatching.read_due_since(recording, ["notify"], since) >= since
    assert dispatched(recording, due_since=since) == ["other1"]
    recording.command("UPDATE sluice.executed_side_effects SET dispatched_at = NULL")
    return sum(pages(recording.explain(*one)) for one in recording.ran)


@pytest.mark.usefixtures("ended")
def test_a_dispatch_does_not_read_the_calls_that_ended_since_an_old_snapshot(
    recording: RecordingSession,
) -> None:
    assert pages_of_a_dispatch(recording) <= MOST_PAGES


def pages_of_a_call(recording: RecordingSession) -> int:
    """Returns the pages of the statements that make a call."""
    with recording.transaction():
        row = calls.lock_call(recording, "other1")
        assert row is not None
        assert calls.lock_order(recording, row, ["notify"]) == (False, False)
        calls.begin_attempt(recording, "other1", 60)
    assert calls.store_success(recording, "other1", "{}")
    return sum(pages(recording.explain(*one)) for one in recording.ran)


@pytest.mark.usefixtures("ended")
def test_a_call_does_not_read_the_calls_that_ended_since_an_old_snapshot(recording: RecordingSession) -> None:
    assert pages_of_a_call(recording) <= MOST_PAGES


@pytest.mark.parametrize(
    ("module", "statement", "old", "new"),
    [
        (dispatching, "DISPATCH_CALLS", "AND e.due_at >= $7", "AND $7 IS NOT NULL"),
        (dispatching, "DISPATCH_CALLS", "e.state = $8", "e.state = 'pending' AND $8 IS NOT NULL"),
        (dispatching, "READ_DUE_SINCE", "AND e.due_at >= $2", "AND $2 IS NOT NULL"),
        (calls, "BEGIN_ATTEMPT", "state = $3", "state = 'pending' AND $3 IS NOT NULL"),
        (calls, "STORE_SUCCESS", "state <> $3", "state <> 'succeeded'"),
    ],
)
@pytest.mark.usefixtures("ended")
def test_a_mutant_that_reads_ended_calls_is_caught(
    recording: RecordingSession,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    statement: str,
    old: str,
    new: str,
) -> None:
    mutate_statement(monkeypatch, module, statement, old, new)
    measure = pages_of_a_dispatch if module is dispatching else pages_of_a_call
    assert measure(recording) > MOST_PAGES
