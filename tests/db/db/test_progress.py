"""Progress on a real Postgres: topics are registered, assignments are consistent, watermarks only rise."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg2
import pytest

from sluice.bridge.progress_store import PostgresProgressStore, ProgressStoreUnavailable
from sluice.db.connection import Session, Statement
from sluice.db.delivery.bridge_instances import claim_instance, try_instance
from sluice.db.delivery.progress import (
    ONE_SNAPSHOT,
    Assignment,
    ProgressSession,
    TopicStart,
    raise_watermarks,
    read_assignments,
    read_halted,
    register_entity,
    register_topic,
)
from sluice.db.errors import Fault, whose_fault
from sluice.stack.patience import patient
from sluice.tasks.events.routing import queue_name
from tests.harness.raw_sql import cursor_of
from tests.waiting import wait_until

START = TopicStart("payments", "id-1", "payment", 4, {0: 10, 1: 20})
PLACE = ("payments", 0)
BRIDGE_WAITS = Statement(
    "bridge_waits",
    """
    SELECT EXISTS (
        SELECT FROM pg_locks l WHERE NOT l.granted AND pg_backend_pid() = ANY (pg_blocking_pids(l.pid))
    )
    """,
)


@pytest.fixture
def other(make_session: Callable[[], Session]) -> Session:
    return make_session()


def _insert_lane(session: Session, queue: str, epoch: int, applied: int) -> None:
    session.command(
        "INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset)"
        f" VALUES ('payments', 0, '{queue}', {epoch}, {applied})"
    )


def _reroute(session: Session, epoch: int) -> None:
    session.command(f"UPDATE sluice.entities SET epoch = {epoch}")
    session.command(f"UPDATE sluice.partition_watermarks SET epoch = {epoch}")


def test_a_new_topic_gets_all_its_rows(session: Session) -> None:
    assert read_assignments(session, [PLACE]) == {}
    register_topic(session, START)
    read = read_assignments(session, [PLACE, ("payments", 1), ("payments", 7), ("other", 0)])
    assert read == {
        PLACE: Assignment("id-1", "payment", 1, 4, 1, 10),
        ("payments", 1): Assignment("id-1", "payment", 1, 4, 1, 20),
        ("payments", 7): Assignment("id-1", "payment", 1, 4, None, None),
    }


def test_queues_are_named_as_the_bridge_names_them(session: Session) -> None:
    register_topic(session, START)
    with cursor_of(session) as cursor:
        cursor.execute("SELECT queue FROM sluice.queues ORDER BY queue")
        assert cursor.fetchall() == [(queue_name("payment", shard),) for shard in range(4)]


def test_the_first_registration_determines_routing_and_offsets(session: Session) -> None:
    register_topic(session, START)
    register_topic(session, TopicStart("payments", "id-2", "payment", 9, {0: 99, 1: 99}))
    assert read_assignments(session, [PLACE])[PLACE] == Assignment("id-1", "payment", 1, 4, 1, 10)
    assert register_entity(session, "payment", 9) == 4


def test_a_partition_that_appears_later_starts_at_zero(session: Session) -> None:
    register_topic(session, START)
    register_topic(session, TopicStart("payments", "id-1", "payment", 4, {0: 50, 1: 50, 2: 50}))
    read = read_assignments(session, [PLACE, ("payments", 2)])
    assert (read[PLACE].watermark, read["payments", 2].watermark) == (10, 0)


def test_lanes_of_older_epochs_are_not_read(session: Session) -> None:
    register_topic(session, START)
    _insert_lane(session, "payment.0", 1, 100)
    _insert_lane(session, "payment.1", 1, 90)
    assert read_assignments(session, [PLACE])[PLACE].applied == {"payment.0": 100, "payment.1": 90}
    _reroute(session, 2)
    _insert_lane(session, "payment.1", 2, 30)
    assert read_assignments(session, [PLACE])[PLACE].applied == {"payment.1": 30}


def test_bridges_that_register_a_topic_at_the_same_time_insert_one_row(
    session: Session, other: Session
) -> None:
    register_topic(session, START)
    more = replace(START, starts={**START.starts, 2: 0})
    # Another bridge has inserted the row of partition 2, and has not committed it yet.
    other.command(
        "BEGIN; SELECT FROM sluice.entities FOR UPDATE;"
        " INSERT INTO sluice.partition_watermarks VALUES ('payments', 2, 1, 7)"
    )
    with ThreadPoolExecutor(1) as pool:
        registering = pool.submit(register_topic, session, more)
        wait_until(lambda: other.run(BRIDGE_WAITS) == [(True,)], timeout_seconds=10, what="the bridge waits")
        other.command("COMMIT")
        registering.result(timeout=patient(30))
    rows = Statement("rows", "SELECT watermark FROM sluice.partition_watermarks WHERE partition = 2")
    assert other.run(rows) == [(7,)]


def test_only_the_lanes_of_the_given_queues_are_read(session: Session) -> None:
    register_topic(session, START)
    _insert_lane(session, "payment.0", 1, 100)
    _insert_lane(session, "payment.1", 1, 90)
    for queues, applied in [({"payment.1", "payment.3"}, {"payment.1": 90}), (set[str](), {})]:
        read = read_assignments(session, [PLACE], queues)
        assert read == {PLACE: Assignment("id-1", "payment", 1, 4, 1, 10, applied)}
    assert read_assignments(session, [], {"payment.1"}) == {}


def test_watermarks_only_rise_and_only_in_their_epoch(session: Session) -> None:
    register_topic(session, START)
    for epoch, watermark, expected in [(1, 15, 15), (1, 12, 15), (2, 40, 15), (0, 40, 15), (1, 16, 16)]:
        raise_watermarks(session, {PLACE: (epoch, watermark), ("unknown", 3): (1, 1)})
        assert read_assignments(session, [PLACE])[PLACE].watermark == expected


def test_a_concurrent_rerouting_rolls_back_the_write(session: Session, other: Session) -> None:
    register_topic(session, START)

    def write() -> None:
        with session.transaction(ONE_SNAPSHOT):
            read_assignments(session, [PLACE])
            _reroute(other, 2)
            raise_watermarks(session, {PLACE: (1, 99)})

    with pytest.raises(psycopg2.Error) as caught:
        write()
    assert whose_fault(caught.value) is Fault.SURROUNDINGS
    assert read_assignments(session, [PLACE])[PLACE].watermark == 10


def test_halted_queues_are_read(session: Session) -> None:
    register_topic(session, START)
    assert read_halted(session) == frozenset()
    session.command("UPDATE sluice.queues SET halted_reason = 'no table' WHERE queue = 'payment.2'")
    assert read_halted(session) == {"payment.2"}


def test_an_instance_number_is_released_with_its_session(session: Session, other: Session) -> None:
    assert claim_instance(session, "sluice") == 0
    assert claim_instance(session, "sluice") == 0
    assert claim_instance(other, "sluice") == 1
    assert not try_instance(other, "sluice", 0)
    assert claim_instance(other, "another group") == 0
    session.close()
    wait_until(lambda: try_instance(other, "sluice", 0), timeout_seconds=10, what="the number is free again")


@pytest.fixture
def opened(database_url: str) -> Iterator[ProgressSession]:
    made = ProgressSession(database_url, application_name="test bridge")
    yield made
    made.close()


def test_the_store_reconnects_and_raises_an_error_if_postgres_is_unavailable(
    opened: ProgressSession,
) -> None:
    store = PostgresProgressStore(opened, "sluice")
    store.register_topic(START)
    # The server ends the connection, as a stopping server does.
    with pytest.raises(psycopg2.Error):
        opened.command("SELECT pg_terminate_backend(pg_backend_pid())")
    opened.connection.close()
    assert store.read_progress([PLACE], set()).partitions[PLACE].watermark == 10
    gone = PostgresProgressStore(
        ProgressSession("postgresql+psycopg2://nobody@127.0.0.1:1/none", application_name="test"), "sluice"
    )
    with pytest.raises(ProgressStoreUnavailable):
        gone.read_progress([PLACE], set())


def test_an_error_while_settling_progress_writes_nothing(opened: ProgressSession) -> None:
    store = PostgresProgressStore(opened, "sluice")
    store.register_topic(START)
    store.settle_progress([PLACE], lambda progress: {PLACE: (1, progress.partitions[PLACE].watermark or 0)})
    with pytest.raises(ZeroDivisionError):
        store.settle_progress([PLACE], lambda _: {PLACE: (1, 1 // 0)})
    store.settle_progress([PLACE], lambda _: {PLACE: (1, 11)})
    assert store.read_assignments([PLACE])[PLACE].watermark == 11
