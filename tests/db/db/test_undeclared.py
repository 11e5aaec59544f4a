"""How long topics and effects have waited for a running worker that declares them.

A topic or an effect waits if no running worker declares it.
"""

import re
from collections.abc import Iterator

import pytest

from sluice.db.admin.open_issues import read_open_issues
from sluice.db.connection import QUEUE_PLANS, Session, Statement
from sluice.db.delivery import undeclared as undeclared_module
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.delivery.undeclared import (
    HALTED_SECONDS,
    MAX_STEP_SECONDS,
    NOTE_UNDECLARED,
    note_undeclared,
    read_halted,
    read_undeclared,
)
from sluice.db.records import Declaration, ProcessKind
from tests.db.admin.leaving import insert_call
from tests.db.living import add_process, end_process

BRIDGE = ProcessKind.BRIDGE
THINGS = {"things": "thing"}
IS_ALIVE_OR_LATE = "heartbeat_at > now() - interval '30 minutes'"
"""True for the row of a process that a test has not ended."""


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """Yields a session with the planner settings of a maintenance worker. One topic is registered."""
    limits = {"statement_timeout": "60s"}  # so that one statement may insert many rows on a busy machine
    opened = Session(database_url, application_name="test undeclared", plans=QUEUE_PLANS, settings=limits)
    register_topic(opened, TopicStart("things", "id-1", "thing", 2, {0: 0}))
    yield opened
    opened.close()


def step(session: Session, seconds: float = 5.0) -> dict[str, float]:
    """Advances the time. Returns, for each name that waits, its waiting time in whole seconds.

    All statements have the same `now()`, so the time that the test itself takes does not count.
    """
    with session.transaction():
        session.command(f"UPDATE sluice.undeclared SET observed_at = now() - interval '{seconds} s'")
        session.command(f"UPDATE sluice.processes SET heartbeat_at = now() WHERE {IS_ALIVE_OR_LATE}")
        note_undeclared(session, "effects")
    return {one.name: round(one.waited_seconds) for one in read_undeclared(session)}


def test_a_topic_that_a_bridge_reads_waits_until_a_worker_declares_it(session: Session) -> None:
    add_process(session, BRIDGE, topics=THINGS)
    add_process(session)
    assert step(session) == {"things": 0}
    assert step(session) == {"things": 5}
    assert step(session, 3) == {"things": 8}
    add_process(session, topics=THINGS)
    assert step(session) == {}


def test_a_topic_that_no_process_declares_does_not_wait(session: Session) -> None:
    add_process(session, BRIDGE, topics={"others": "thing"})
    add_process(session)
    assert step(session) == {}


def test_a_waiting_topic_keeps_its_waiting_time_while_no_bridge_runs(session: Session) -> None:
    bridge = add_process(session, BRIDGE, topics=THINGS)
    add_process(session)
    step(session)
    assert step(session) == {"things": 5}
    end_process(session, bridge)
    assert step(session) == {"things": 5}
    add_process(session, BRIDGE)
    assert step(session) == {}, "the new bridge does not read the topic"


def test_only_a_running_worker_that_serves_a_queue_of_the_topic_counts(session: Session) -> None:
    add_process(session, BRIDGE, topics=THINGS)
    dead = add_process(session, topics=THINGS)
    end_process(session, dead)
    add_process(session, topics=THINGS, queues=["relay", "other.0"])
    assert step(session) == {"things": 0}
    add_process(session, topics=THINGS, queues=["thing.1"])
    assert step(session) == {}


def test_a_long_time_between_two_steps_counts_only_up_to_a_limit(session: Session) -> None:
    add_process(session, BRIDGE, topics=THINGS)
    step(session)
    assert step(session, 3_600) == {"things": MAX_STEP_SECONDS}


@pytest.mark.parametrize(("state", "waits"), [("pending", True), ("running", False), ("failed", False)])
def test_an_effect_with_pending_calls_waits_until_a_worker_for_calls_declares_it(
    session: Session, state: str, waits: bool
) -> None:
    add_process(session, effects=["known"], queues=["effects"])
    add_process(session, effects=["new"], queues=["relay"])
    for number, effect in enumerate(("known", "new", "newer")):
        insert_call(session, f"c{number}", state)
        session.command(
            f"UPDATE sluice.executed_side_effects SET effect = '{effect}' WHERE effect_key = 'c{number}'"
        )
    assert step(session) == ({"new": 0, "newer": 0} if waits else {})
    add_process(session, effects=["new"], queues=["effects"])
    assert step(session) == ({"newer": 5} if waits else {})


def test_an_expired_attempt_of_an_undeclared_effect_waits(session: Session) -> None:
    add_process(session)
    insert_call(session, "c", "running")
    session.command("UPDATE sluice.executed_side_effects SET claimed_until = now() - interval '1 s'")
    assert len(step(session)) == 1


def test_a_topic_that_waited_for_ten_minutes_is_halted(session: Session) -> None:
    add_process(session, BRIDGE, topics=THINGS)
    step(session)
    session.command(f"UPDATE sluice.undeclared SET waited_seconds = {HALTED_SECONDS - 10}")
    step(session, 5)
    assert read_halted(session) == []
    assert not read_open_issues(session).need_an_operator
    step(session, 5)
    [halted] = read_halted(session)
    assert (halted.kind, halted.name) == (Declaration.TOPIC, "things")
    found = read_open_issues(session)
    assert (found.halted_topics, found.halted_effects, found.need_an_operator) == (1, 0, True)


def test_a_step_reads_few_pages_with_many_calls_of_one_effect(session: Session) -> None:
    add_process(session, effects=["pay"])
    session.command(
        "INSERT INTO sluice.executed_side_effects"
        " (effect_key, effect, identity, entity, entity_key, fingerprint, explicit_once)"
        " SELECT 'k' || n, CASE WHEN n = 1 THEN 'mail' ELSE 'pay' END, gen_random_uuid(), 'e', 'k',"
        " gen_random_uuid(), false FROM generate_series(1, 50000) n"
    )
    assert step(session) == {"mail": 0}
    with session.connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, BUFFERS) EXECUTE note_undeclared ('effects')")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    pages = re.search(r"shared hit=(\d+)", plan)
    assert pages is not None
    assert int(pages[1]) < 200, plan


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"least({MAX_STEP_SECONDS}, extract(epoch FROM now() - u.observed_at))", "0"),
        ("WHERE b.kind = 'bridge' AND b.heartbeat_at", "WHERE true OR b.heartbeat_at"),
    ],
)
def test_a_mutant_of_the_statement_is_detected(
    session: Session, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    assert old in NOTE_UNDECLARED.text
    changed = Statement("mutant", NOTE_UNDECLARED.text.replace(old, new), NOTE_UNDECLARED.types)
    monkeypatch.setattr(undeclared_module, "NOTE_UNDECLARED", changed)
    tests = (
        test_a_topic_that_a_bridge_reads_waits_until_a_worker_declares_it,
        test_a_waiting_topic_keeps_its_waiting_time_while_no_bridge_runs,
    )
    with pytest.raises(AssertionError):  # noqa: PT012
        for test in tests:
            test(session)
