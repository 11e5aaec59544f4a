"""Lists of calls for the operator, on a real Postgres: filters, earlier open calls, and conflicts."""

import pytest

from sluice.admin.effects import require_call
from sluice.db.admin.call_admin import (
    CallReason,
    Chosen,
    count_call_reasons,
    count_calls,
    count_open_calls,
    read_all_calls,
    read_call_conflicts,
    read_calls,
    read_calls_before,
)
from sluice.db.connection import Session
from sluice.db.sending import calls
from tests.db.admin.leaving import insert_call


def test_calls_are_counted_and_listed_by_filter(session: Session) -> None:
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

    assert keys(Chosen()) == ["c", "b", "a"]
    assert keys(Chosen(), after=require_call(session, "c").id, limit=1) == ["b"]
    assert keys(Chosen(state="failed")) == ["a"]
    assert keys(Chosen(effect="notify", entity_key="other")) == ["b"]
    assert keys(Chosen(older_than_seconds=60)) == ["c"]
    assert keys(Chosen(entity="payment")) == []
    assert [call.effect_key for call in read_all_calls(session, Chosen(effect="notify"))] == ["a", "b"]
    assert count_open_calls(session) == {"notify": 2}


def test_calls_with_the_same_error_are_counted(session: Session) -> None:
    for number in range(3):
        insert_call(session, f"k{number}", "failed", error="[gone]")
    insert_call(session, "alone", "failed", error="other")
    insert_call(session, "done", "succeeded", error="[gone]")
    assert count_call_reasons(session, Chosen(), limit=9) == [
        CallReason(3, "notify", "failed", "k2", "[gone]")
    ]
    assert count_call_reasons(session, Chosen(state="pending"), limit=9) == []


def test_all_calls_are_read_page_by_page(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.db.admin.call_admin.PAGE_ROWS", 2)
    for number in range(5):
        insert_call(session, f"k{number}")
    assert [call.effect_key for call in read_all_calls(session, Chosen())] == [f"k{n}" for n in range(5)]


@pytest.mark.parametrize("holding", [[], ["notify"]])
@pytest.mark.parametrize("earlier", ["pending", "running", "succeeded", "failed", "uncertain"])
@pytest.mark.parametrize("later", ["pending", "running", "failed"])
def test_the_list_names_the_earlier_calls_that_the_worker_waits_for(
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


def test_a_call_conflict_is_listed_with_the_args_of_the_first_call(session: Session) -> None:
    insert_call(session, "a", "succeeded")
    session.command(
        "INSERT INTO sluice.call_conflicts (effect_key, identity, args)"
        " VALUES ('a', gen_random_uuid(), '{\"to\": \"bob\"}')"
    )
    [conflict] = read_call_conflicts(session, "notify", after=0, limit=10)
    assert (conflict.args, conflict.made_args, conflict.state) == ({"to": "bob"}, {"to": "ann"}, "succeeded")
    assert read_call_conflicts(session, "capture", after=0, limit=10) == []
    assert read_call_conflicts(session, None, after=conflict.id, limit=10) == []
