"""Calls that wait behind a call of their entity do not slow down other calls, even if many wait."""

from collections.abc import Iterator
from contextlib import closing
from types import ModuleType
from typing import Any

import pytest

from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.records import CallState
from sluice.db.sending import calls
from tests.db.tasks.recording import RecordingSession
from tests.mutants import mutated

HELD, OTHERS = 3_000, 20


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
    session: Session, limit: int = 500, holding: tuple[str, ...] = ("notify",), module: ModuleType = calls
) -> list[str]:
    found = module.dispatch_calls(
        session, ["notify"], holding, again_after_seconds=60, limit=limit, newest_format=1
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
    insert_calls(session, "held", "k", limit * calls.LOOKED_AT_PER_CALL + 5, 60)
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


@pytest.mark.parametrize("is_mutant", [False, True])
def test_a_dispatch_does_not_read_the_open_calls_of_an_old_snapshot(
    recording: RecordingSession, session: Session, database_url: str, is_mutant: bool
) -> None:
    module = mutated(calls, " OFFSET 0\n", "\n") if is_mutant else calls
    with closing(Session(database_url, application_name="old")) as old:
        old.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM sluice.switches")
        insert_calls(session, "ended", "ended-", 500, 60)
        session.command("UPDATE sluice.executed_side_effects SET state = 'succeeded'")
        insert_calls(session, "other", "other-", 1, 1)
        session.command("ANALYZE sluice.executed_side_effects")
        assert dispatched(recording, module=module) == ["other1"]
        session.command("UPDATE sluice.executed_side_effects SET dispatched_at = NULL")
        plan = recording.explain(*recording.ran[-1])
    probes = [one for one in nodes(plan) if one.get("Index Name") == "executed_side_effects_open_idx"]
    assert (sum(pages(one) for one in probes) > 32) is is_mutant
