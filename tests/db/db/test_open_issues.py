"""Open issues are counted up to a limit. The cost does not depend on the number of settled rows."""

from collections.abc import Iterator
from typing import Any

import pytest

from sluice.db.admin.open_issues import READ_OPEN_ISSUES, OpenIssues, read_open_issues
from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.delivery.switches import set_switch
from sluice.db.sending.calls import EFFECTS_PAUSED
from tests.db.admin.leaving import insert_call, insert_event
from tests.db.tasks.applying import Bench
from tests.db.tasks.applying import bench as bench
from tests.db.tasks.failing import fill
from tests.db.tasks.recording import RecordingSession

HISTORY = 20_000
OPEN = 40

# The history: settled dead letters and calls.
_DONE = (
    f"""
    INSERT INTO sluice.dead_letters (topic, topic_id, partition, "offset", timestamp_ms, headers, queue,
        entity, entity_key, identity, outcome, error_class, error_text, state)
    SELECT 'things', 'old', 0, n, 0, '[]', 'thing.0', 'thing', 'k' || n, gen_random_uuid(), 'dead', 'E', 'e',
           CASE n % 2 WHEN 0 THEN 'done' ELSE 'dropped' END
    FROM generate_series(1, {HISTORY}) n
    """,
    f"""
    INSERT INTO sluice.executed_side_effects (effect_key, effect, identity, entity, entity_key, fingerprint,
        explicit_once, state)
    SELECT 'old' || n, 'notify', gen_random_uuid(), 'thing', 'k', gen_random_uuid(), false, 'succeeded'
    FROM generate_series(1, {HISTORY}) n
    """,
)


@pytest.fixture
def session(bench: Bench, database_url: str) -> Iterator[RecordingSession]:
    opened = RecordingSession(database_url, application_name="test self-check", plans=QUEUE_PLANS)
    opened.ran = []
    yield opened
    opened.close()


def make_issues(bench: Bench) -> None:
    """Makes a different number of issues of each kind.

    `fill` makes 3 dead, 1 conflict and 2 waiting letters, 2 parked entities, 1 outgoing event and 1 call.
    One of the waiting letters is then also retried.
    """
    fill(bench)
    look = bench.looking
    look.command(
        "INSERT INTO sluice.retries (letter_id, queue, entity, key, kind, retry_at)"
        " VALUES (2, 'thing.0', 'thing', 'k', 'row_held', now())"
    )
    look.command("UPDATE sluice.queues SET halted_reason = 'why'")
    for number in range(4):
        insert_event(look, 1_000 + number, queue="thing.0", refused="too large")
    insert_event(look, 2_000, queue="emit.x.1")
    look.command("INSERT INTO sluice.relay_progress (queue, sent_through) VALUES ('emit.x.1', 5)")
    look.command("UPDATE sluice.outbox_events SET created_at = now() - interval '90 s' WHERE id = 2000")
    for state, count in {"uncertain": 5, "failed": 6, "running": 7, "pending": 8}.items():
        for number in range(count):
            insert_call(look, f"{state} {number}", state)
    look.command(
        "UPDATE sluice.executed_side_effects SET due_at = now() - interval '70 s'"
        " WHERE effect_key = 'pending 0'"
    )
    look.command(
        "INSERT INTO sluice.undeclared (kind, name, waited_seconds) VALUES"
        " ('topic', 't', 600), ('topic', 'u', 599), ('effect', 'a', 600), ('effect', 'b', 700)"
    )
    set_switch(look, EFFECTS_PAUSED, actor="me", reason="test")


def test_every_kind_of_open_issue_is_counted(bench: Bench, session: Session) -> None:
    make_issues(bench)
    found = read_open_issues(session)
    assert found._replace(oldest_outgoing_seconds=0, oldest_due_call_seconds=0) == OpenIssues(
        halted_queues=1,
        stopped_generations=0,
        projection_letters=0,
        dead_letters=3,
        conflicts=1,
        refused_records=4,
        uncertain_calls=5,
        failed_calls=6,
        halted_topics=1,
        halted_effects=2,
        retrying_events=1,
        waiting_letters=1,
        parked_entities=1,
        outgoing_records=1 + 4 + 1,
        pending_calls=1 + 8,
        running_calls=7,
        oldest_outgoing_seconds=0,
        oldest_due_call_seconds=0,
        effects_paused=True,
    )
    assert 90 <= found.oldest_outgoing_seconds < 120
    assert 70 <= found.oldest_due_call_seconds < 100
    assert found.need_an_operator


def test_a_healthy_installation_has_no_open_issues(session: Session) -> None:
    found = read_open_issues(session)
    assert set(found) == {0}
    assert not found.need_an_operator


@pytest.mark.parametrize(
    "field",
    [
        *("dead_letters", "failed_calls", "halted_topics", "halted_effects", "effects_paused"),
        *("stopped_generations", "projection_letters"),
    ],
)
def test_some_issues_need_an_operator_and_waiting_work_does_not(session: Session, field: str) -> None:
    healthy = read_open_issues(session)
    changed: dict[str, Any] = {field: 1}
    assert healthy._replace(**changed).need_an_operator
    assert not healthy._replace(
        outgoing_records=9, pending_calls=9, waiting_letters=9, retrying_events=9
    ).need_an_operator


def test_counting_ends_at_the_limit(bench: Bench, session: Session) -> None:
    make_issues(bench)
    found = read_open_issues(session, count_to=2)
    assert (found.failed_calls, found.outgoing_records, found.dead_letters, found.conflicts) == (2, 2, 2, 1)


def test_counting_costs_the_same_with_a_long_history(bench: Bench, session: RecordingSession) -> None:
    make_issues(bench)
    before = pages(session)
    for statement in _DONE:
        bench.look(statement)
    bench.look("ANALYZE")
    after = pages(session)
    assert after <= before + 20, f"{before} pages before, {after} with {HISTORY} rows of history"


def test_counting_without_an_index_costs_more_with_a_long_history(
    bench: Bench, session: RecordingSession
) -> None:
    make_issues(bench)
    before = pages(session)
    bench.look("DROP INDEX sluice.dead_letters_open_idx")
    bench.look(_DONE[0])
    assert pages(session) > before + 20


def pages(session: RecordingSession) -> int:
    read_open_issues(session)
    plan: dict[str, Any] = session.explain(READ_OPEN_ISSUES, (100_000,))
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
