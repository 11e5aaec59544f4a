"""Calls that wait behind another one of their entity cost the others little, however many they are."""

from collections.abc import Iterator
from typing import Any

import pytest

from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.records import CallState
from sluice.db.sending import calls
from tests.db.tasks.recording import RecordingSession

HELD, OTHERS = 3_000, 20


@pytest.fixture
def recording(database_url: str) -> Iterator[RecordingSession]:
    session = RecordingSession(database_url, application_name="test held", plans=QUEUE_PLANS)
    session.ran = []
    yield session
    session.close()


def insert_calls(session: Session, prefix: str, entity_key: str, number: int, minutes: int) -> None:
    """Due calls of one effect: all of one entity, or each of its own if its key has a "-"."""
    session.command(
        "INSERT INTO sluice.executed_side_effects (effect_key, effect, identity, entity, entity_key, args,"
        " fingerprint, explicit_once, due_at)"
        f" SELECT '{prefix}' || n, 'notify', gen_random_uuid(), 'order',"
        f" replace('{entity_key}', '-', n::text),"
        f" '{{}}', gen_random_uuid(), false, now() - make_interval(mins => {minutes}, secs => -n * 0.001)"
        f" FROM generate_series(1, {number}) AS n"
    )


def dispatched(session: Session, limit: int = 500, holding: tuple[str, ...] = ("notify",)) -> list[str]:
    found = calls.dispatch_calls(
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
def test_whether_a_call_is_held_is_asked_once_per_entity(
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
    assert sum(one["Actual Loops"] for one in probes) <= 2 * (OTHERS + 1), "its row, and those before it"
    assert sum(pages(one) for one in probes) <= 16 * (OTHERS + 1), "the first of many looks at none of them"


def test_the_first_of_many_is_claimed_without_a_look_at_the_others(
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
def test_calls_behind_more_held_ones_than_are_looked_at_first_are_found(
    recording: RecordingSession, session: Session, limit: int
) -> None:
    insert_calls(session, "held", "k", limit * calls.LOOKED_AT_PER_CALL + 5, 60)
    insert_calls(session, "other", "other-", 3, 1)
    assert dispatched(recording, limit) == ["held1", "other1", "other2", "other3"][:limit]


@pytest.mark.parametrize("running", [1, 2, 3])
def test_a_call_that_runs_holds_the_others_of_any_effect(
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


def test_calls_without_an_entity_hold_each_other_never(recording: RecordingSession, session: Session) -> None:
    insert_calls(session, "free", "k", 5, 1)
    session.command("UPDATE sluice.executed_side_effects SET entity_key = NULL")
    assert dispatched(recording) == [f"free{n}" for n in range(1, 6)]


def test_the_first_call_is_the_oldest_and_not_the_one_that_is_due_first(
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
    assert dispatched(recording) == [], "the oldest is tried again later, and the others wait for it"
