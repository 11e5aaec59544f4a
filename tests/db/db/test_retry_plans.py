"""The cost of a retry does not depend on the number of dead letters."""

from typing import Any

import pytest

from sluice.db.apply import retries
from sluice.db.apply.handler_deaths import FORGET_DEATHS
from sluice.db.connection import BATCH_PLANS, Statement
from sluice.tasks.apply.apply import Applier
from tests.db.tasks.applying import QUEUE, TOPIC_ID
from tests.db.tasks.recording import RecordingSession
from tests.db.tasks.setting_aside import ROW, SOON, AsideBench, apply_held, held
from tests.db.tasks.setting_aside import bench as bench

LETTERS = 20_000
HISTORY = f"""
    INSERT INTO sluice.dead_letters (topic, topic_id, partition, "offset", timestamp_ms, headers, queue,
        entity, entity_key, identity, outcome, error_class, error_text, state)
    SELECT 'things', 'old', 0, n, 0, '[]', 'thing.0', 'thing', 'old' || n, gen_random_uuid(), 'dead',
           'E', 'e', 'dead' FROM generate_series(1, {LETTERS}) n
"""
PAGES = 100  # The limit for one statement. The letters fill several hundred pages.


def use_recording_session(bench: AsideBench) -> RecordingSession:
    bench.session.close()
    session = RecordingSession(bench.database_url, application_name="test plans", plans=BATCH_PLANS)
    session.ran = []
    bench.session, bench.applier = session, Applier(session, bench.registry, SOON)
    return session


def most_pages(bench: AsideBench) -> dict[str, int]:
    """Returns, for each statement of a retry, the largest number of pages that it reads."""
    session = use_recording_session(bench)
    with held(bench, ROW):
        apply_held(bench, ROW, 5)
        bench.look(HISTORY)
        bench.look("ANALYZE")
        bench.retry_until_attempts(3)
        ran = [(statement, values) for statement, values in session.ran if "retries" in statement.text]
        ran += [
            (retries.MOVE_RETRY, ("thing", "k", True)),
            (FORGET_DEATHS, (QUEUE, f"{{{TOPIC_ID}}}", "{0}", "{0}")),
        ]
        found: dict[str, int] = {}
        for statement, values in ran:
            session.run(statement, *values)
            plan: dict[str, Any] = session.explain(statement, values)
            pages = int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
            found[statement.name] = max(found.get(statement.name, 0), pages)
    return found


def test_a_retry_reads_few_pages_even_if_there_are_many_dead_letters(bench: AsideBench) -> None:
    found = most_pages(bench)
    assert {"insert_retry", "read_due_retry", "begin_retry", "postpone_retry", "move_retry"} <= found.keys()
    assert max(found.values()) < PAGES, found


def test_a_join_instead_of_a_subquery_reads_many_pages(
    bench: AsideBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    subquery = "(SELECT d.state FROM sluice.dead_letters d WHERE d.id = r.letter_id) <> 'waiting'"
    text = retries.MOVE_RETRY.text.replace(subquery, "d.id = r.letter_id AND d.state <> 'waiting'")
    text = text.replace("sluice.retries r\n", "sluice.retries r USING sluice.dead_letters d\n")
    assert "USING" in text
    mutant = Statement("move_retry", text, retries.MOVE_RETRY.types)
    monkeypatch.setattr(retries, "MOVE_RETRY", mutant)
    assert max(most_pages(bench).values()) > PAGES
