"""Queries of `doctor` and `status` about the server and about waiting work, on real Postgres."""

import threading
from collections.abc import Callable
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from sluice.admin.doctor.facts import DeclaredFacts
from sluice.admin.doctor.situation_reading import read_situation
from sluice.db.admin.server_facts import (
    NO_REPLICATION,
    read_beat_silence,
    read_blockers,
    read_horizons,
    read_replication,
)
from sluice.db.admin.waiting_facts import (
    DueCalls,
    EventDeath,
    HoldingCall,
    read_due_calls,
    read_event_deaths,
    read_holding_calls,
    read_queue_progress,
    read_waiting_topics,
)
from sluice.db.apply.handler_deaths import note_death
from sluice.db.connection import Session
from sluice.db.delivery.leases import try_lead
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.schema_text import in_schema
from sluice.runtime.place import EventPlace
from tests.db.admin.leaving import insert_call, insert_event
from tests.waiting import WAITING_BACKENDS, wait_until

READ = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sluice.queues"
WRITE = "BEGIN; INSERT INTO sluice.tombstones VALUES ('t', 'k', 1)"


@pytest.mark.parametrize("statement", [READ, WRITE])
def test_a_transaction_of_this_database_holds_up_vacuum(
    session: Session, make_session: Callable[[], Session], statement: str
) -> None:
    assert read_horizons(session) == []
    other = make_session()
    other.command(statement)
    [found] = read_horizons(session)
    assert (found.kind, found.name) == ("session", str(other.connection.info.backend_pid))
    assert (found.state, found.query) == ("idle in transaction", in_schema(statement, session.schema))
    assert found.application == "test 1"
    assert found.seconds is not None
    assert found.seconds >= 0
    other.roll_back()
    other.command("BEGIN; SELECT 1")
    assert read_horizons(session) == [], "READ COMMITTED holds no snapshot between two statements"


def test_a_transaction_of_another_database_does_not_hold_up_vacuum(
    session: Session, database_url: str
) -> None:
    url = make_url(database_url).set(database="postgres")
    with closing(Session(url, application_name="test")) as other:
        other.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
        assert read_horizons(session) == []


def test_a_server_without_standbys_has_no_replication(session: Session) -> None:
    assert read_replication(session) == NO_REPLICATION


def test_facts_that_the_role_has_no_right_to_read_are_left_out(
    session: Session, make_session: Callable[[], Session], database_url: str
) -> None:
    name = f"reader_{session.connection.info.backend_pid}"
    session.command(f"CREATE ROLE {name} LOGIN")
    session.command(f"GRANT USAGE ON SCHEMA sluice TO {name}")
    session.command(f"GRANT SELECT ON ALL TABLES IN SCHEMA sluice TO {name}")
    other = make_session()
    other.command(WRITE)
    url = make_url(database_url).set(username=name)
    reader = Session(url, application_name="test")
    try:
        [found] = read_horizons(reader)
        assert (found.name, found.seconds) == (str(other.connection.info.backend_pid), None)
        assert read_replication(reader) == NO_REPLICATION
        assert read_beat_silence(reader) is None
        assert read_blockers(reader) == []
        declared = DeclaredFacts(frozenset(), {}, {}, "", None)
        working = read_situation(reader, "sluice", declared).working
        assert working is not None
        assert working.horizons[0].name == found.name
    finally:
        reader.close()
        session.command(f"DROP OWNED BY {name}")
        session.command(f"DROP ROLE {name}")


def test_the_scheduling_beat_is_recognised_by_its_lock(
    session: Session, make_session: Callable[[], Session]
) -> None:
    assert read_beat_silence(session) is None
    beat = make_session()
    assert try_lead(beat)
    first = read_beat_silence(session)
    assert first is not None
    wait_until(
        lambda: (read_beat_silence(session) or 0.0) > first, timeout_seconds=5, what="the silence grows"
    )
    beat.close()
    wait_until(
        lambda: read_beat_silence(session) is None, timeout_seconds=5, what="the lock of the beat is released"
    )


@pytest.mark.parametrize(("application", "is_found"), [("psql", True), ("sluice relay", False)])
def test_sessions_of_other_programs_that_block_sluice_are_found(
    session: Session, database_url: str, application: str, is_found: bool
) -> None:
    lock = f"BEGIN; LOCK TABLE {session.schema}.audit"
    limits = {"lock_timeout": "0", "statement_timeout": "0"}
    with (
        closing(Session(database_url, application_name=application)) as other,
        closing(Session(database_url, application_name="sluice worker", settings=limits)) as waiting,
    ):
        other.command(lock)
        assert read_blockers(session) == []
        thread = threading.Thread(target=waiting.command, args=("SELECT count(*) FROM sluice.audit",))
        thread.start()
        try:
            with session.connection.cursor() as cursor:

                def waits() -> bool:
                    cursor.execute(WAITING_BACKENDS)
                    return cursor.rowcount == 1

                wait_until(waits, timeout_seconds=10, what="the worker waits")
            found = read_blockers(session)
        finally:
            other.roll_back()
            thread.join()
        pid = other.connection.info.backend_pid
        assert [(one.pid, one.application, one.query) for one in found] == [
            (pid, application, lock)
        ] * is_found


def test_each_waiting_topic_has_a_count_of_all_events_and_of_events_that_can_be_sent(
    session: Session,
) -> None:
    assert read_waiting_topics(session) == []
    insert_event(session, 100, queue="order.1", topic="out", key="a", refused="too large")
    insert_event(session, 101, queue="order.1", topic="out", key="a")
    insert_event(session, 102, queue="order.1", topic="out", key="b")
    insert_event(session, 20, queue="order.2", topic="out", key="a")
    insert_event(session, 7, queue="order.2", topic="gone", key=None, refused="no")
    session.command("UPDATE sluice.outbox_events SET created_at = now() - interval '1 hour' WHERE id = 20")
    gone, out = read_waiting_topics(session)
    assert gone[:5] == ("gone", 1, "order.2", 7, 0)
    assert gone.free_seconds == 0
    assert out[:5] == ("out", 4, "order.2", 20, 2), "a refused event holds back only events of its own queue"
    assert 3_600 <= out.free_seconds < 3_700


def test_due_calls_are_the_calls_that_a_worker_could_make_now(session: Session) -> None:
    assert read_due_calls(session, ["notify"], ["notify"]) == DueCalls()
    ago = "2020-01-01 00:00:00+00"
    insert_call(session, "failed", "failed", entity_key="a")
    insert_call(session, "behind it", entity_key="a", due_at=ago)
    insert_call(session, "first", entity_key="b", due_at=ago)
    insert_call(session, "second", entity_key="b", due_at=ago)
    insert_call(session, "later", entity_key="c", due_at="2100-01-01 00:00:00+00")
    insert_call(session, "undeclared", effect="fax", due_at=ago)
    insert_call(session, "done", "succeeded", entity_key="d", due_at=ago)
    calls, seconds = read_due_calls(session, ["notify"], ["notify"])
    assert calls == 1
    assert seconds > 1e8
    assert read_due_calls(session, ["notify"], []).calls == 2, "no effect holds back calls in this reading"


def test_calls_that_hold_back_other_calls_are_found(session: Session) -> None:
    for number, state in enumerate(("failed", "uncertain", "failed")):
        insert_call(session, f"k-{number}", state, entity_key=f"e-{number}")
        for behind in range(number):
            insert_call(session, f"k-{number}-{behind}", entity_key=f"e-{number}")
    insert_call(session, "other effect", effect="fax", entity_key="e-0")
    insert_call(session, "no entity", "failed", entity_key=None)
    assert read_holding_calls(session, ["notify"]) == [
        HoldingCall("k-1", "notify", "order", "e-1", "uncertain", 1),
        HoldingCall("k-2", "notify", "order", "e-2", "failed", 2),
    ]
    assert read_holding_calls(session, ["fax"]) == []


def test_events_that_killed_a_worker_are_read(session: Session) -> None:
    place = EventPlace("orders", "id-1", 3, 42)
    for _ in range(2):
        note_death(session, "order.1", place, timed_out=False, how="signal 11")
    [found] = read_event_deaths(session)
    assert found == EventDeath("order.1", "orders", 3, 42, 2, "signal 11", found.seconds)
    assert 0 <= found.seconds < 60


def test_progress_of_a_queue_is_the_sum_of_its_lanes(session: Session) -> None:
    register_topic(session, TopicStart("orders", "id-1", "order", 2, {0: 10, 1: 20}))
    session.command(
        "INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset)"
        " VALUES ('orders', 0, 'order.0', 1, 5), ('orders', 1, 'order.0', 1, 7)"
    )
    before = read_queue_progress(session)
    session.command("UPDATE sluice.lane_offsets SET applied_offset = 8 WHERE partition = 1")
    assert before == {"order.0": 12}
    assert read_queue_progress(session) == {"order.0": 13}
