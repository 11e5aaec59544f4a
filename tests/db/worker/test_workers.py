"""The list of workers that share the queues. The leases are read from locks, all else from heartbeats."""

from collections.abc import Callable
from datetime import timedelta
from random import Random

import pytest

from sluice.db.connection import Session
from sluice.db.delivery.leases import (
    Heartbeat,
    Lease,
    Sharing,
    Worker,
    end_lease,
    join_workers,
    read_workers,
    try_lease,
    write_heartbeat,
)
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.worker.activity import Activity
from sluice.worker.lease_thread import LeaseThread, View
from tests.harness.raw_sql import cursor_of
from tests.waiting import wait_until

MakeSession = Callable[[], Session]

IDLE = Heartbeat("one@host", 11, {}, None, None, None, None, None, None)
QUEUES = ["payment.0", "payment.1", "payment.2"]


@pytest.fixture(autouse=True)
def queues(session: Session) -> None:
    """Creates three queues of one entity type."""
    register_topic(session, TopicStart("payments", "id-1", "payment", 3, {0: 0}))


def member(make_session: MakeSession, heartbeat: Heartbeat = IDLE) -> Session:
    """Returns the session of a worker that holds the leases of `heartbeat` and has written `heartbeat`."""
    joined = make_session()
    join_workers(joined)
    assert all(try_lease(joined, queue) for queue in heartbeat.leases)
    write_heartbeat(joined, heartbeat)
    return joined


def seconds_ago(sharing: Sharing, worker: Worker) -> dict[str, float]:
    """Returns the age of the lease of each queue, by the clock of the database."""
    return {queue: (sharing.at - since).total_seconds() for queue, since in worker.leases.items() if since}


def backend_pid(session: Session) -> int:
    return session.connection.info.backend_pid


def test_workers_are_listed_with_their_leases_and_activity(
    session: Session, make_session: MakeSession
) -> None:
    heartbeat = Heartbeat(
        "one@host", 11, {"payment.0": 600.0, "payment.2": 5.0}, "payment.2", 3.0, "payment.0", 4.0, 200, 0.05
    )
    one = member(make_session, heartbeat)
    two = member(make_session, IDLE._replace(node="two@host", process_id=12, leases={"payment.1": 0.0}))

    sharing = read_workers(session)
    pids = {"payment.0": backend_pid(one), "payment.1": backend_pid(two), "payment.2": backend_pid(one)}
    assert sharing.leases == tuple(Lease(queue, False, pid) for queue, pid in pids.items())
    assert sharing.holders() == {"payment.0": "one@host", "payment.1": "two@host", "payment.2": "one@host"}
    assert sharing.unheld() == []

    first, second = sharing.workers
    assert (first.node, first.process_id, first.backend_pid) == ("one@host", 11, backend_pid(one))
    assert seconds_ago(sharing, first) == pytest.approx({"payment.0": 600, "payment.2": 5}, abs=2)
    assert (first.busy_queue, first.last_queue) == ("payment.2", "payment.0")
    assert first.busy_since is not None
    assert first.last_at is not None
    assert sharing.at - first.busy_since == pytest.approx(timedelta(seconds=3), abs=timedelta(seconds=2))
    assert sharing.at - first.last_at == pytest.approx(timedelta(seconds=4), abs=timedelta(seconds=2))
    assert (first.last_records, first.last_seconds) == (200, 0.05)
    assert first.joined_at <= first.heartbeat_at <= sharing.at
    assert (second.node, list(second.leases)) == ("two@host", ["payment.1"])
    assert second[7:] == (None,) * 5


def test_the_time_of_the_list_comes_from_the_database(session: Session, make_session: MakeSession) -> None:
    none = read_workers(session)
    assert (none.workers, none.holders(), none.unheld()) == ((), {}, QUEUES)
    member(make_session)
    [worker] = read_workers(session).workers
    assert none.at <= worker.joined_at


def test_a_released_lease_is_not_listed_even_if_the_heartbeat_names_it(
    session: Session, make_session: MakeSession
) -> None:
    one = member(make_session, IDLE._replace(leases={"payment.0": 9.0, "payment.1": 9.0}))
    end_lease(one, "payment.0")
    assert try_lease(one, "payment.2")
    sharing = read_workers(session)
    [worker] = sharing.workers
    assert worker.leases.keys() == {"payment.1", "payment.2"}
    # The list shows a new lease immediately. The time at which the lease began follows with the next
    # heartbeat.
    assert worker.leases["payment.2"] is None
    assert sharing.unheld() == ["payment.0"]


def test_a_new_heartbeat_keeps_the_time_of_joining(session: Session, make_session: MakeSession) -> None:
    one = member(make_session)
    [before] = read_workers(session).workers
    write_heartbeat(
        one, IDLE._replace(last_queue="payment.0", last_age=0.0, last_records=7, last_seconds=0.1)
    )
    [after] = read_workers(session).workers
    assert after.joined_at == before.joined_at
    assert after.heartbeat_at > before.heartbeat_at
    assert (before.last_records, after.last_records) == (None, 7)


def test_an_ended_worker_is_not_listed_even_if_its_row_exists(
    session: Session, make_session: MakeSession
) -> None:
    one = member(make_session, IDLE._replace(leases={"payment.0": 1.0}))
    two = member(make_session, IDLE._replace(node="two@host"))
    pid = backend_pid(one)
    one.close()
    # A backend ends a moment after its client.
    wait_until(
        lambda: len(read_workers(session).workers) == 1,
        timeout_seconds=10,
        what="the locks of the worker are released",
    )
    sharing = read_workers(session)
    assert [worker.node for worker in sharing.workers] == ["two@host"]
    assert sharing.unheld() == QUEUES
    assert rows(session) == {pid, backend_pid(two)}

    three = member(make_session, IDLE._replace(node="three@host"))
    assert rows(session) == {backend_pid(two), backend_pid(three)}


def rows(session: Session) -> set[int]:
    """Returns the backend process ids of all rows."""
    with cursor_of(session) as cursor:
        cursor.execute("SELECT backend_pid FROM sluice.workers")
        return {pid for (pid,) in cursor.fetchall()}


def test_a_heartbeat_of_a_session_that_has_not_joined_is_ignored(
    session: Session, make_session: MakeSession
) -> None:
    stranger = make_session()
    write_heartbeat(stranger, IDLE)
    assert read_workers(session).workers == ()
    # The list contains the lease, although the session has not joined.
    assert try_lease(stranger, "payment.1")
    sharing = read_workers(session)
    assert sharing.holders() == {"payment.1": f"session {backend_pid(stranger)}"}
    assert sharing.unheld() == ["payment.0", "payment.2"]


def test_a_retired_queue_is_listed_but_never_reported_as_unheld(
    session: Session, make_session: MakeSession
) -> None:
    session.command("UPDATE sluice.entities SET shards = 1 WHERE entity = 'payment'")
    one = member(make_session, IDLE._replace(leases={"payment.2": 1.0}))
    sharing = read_workers(session)
    assert sharing.leases == (
        Lease("payment.0", False, None),
        Lease("payment.1", True, None),
        Lease("payment.2", True, backend_pid(one)),
    )
    assert sharing.unheld() == ["payment.0"]
    assert list(sharing.workers[0].leases) == ["payment.2"]


def test_the_lease_thread_writes_the_activity_of_its_worker(
    session: Session, make_session: MakeSession
) -> None:
    now = 1_000.0
    activity = Activity(clock=lambda: now)
    lease_thread = LeaseThread(
        make_session(),
        "one@host",
        activity,
        lambda: None,
        {"payment": ["payments"]},
        rng=Random(1),
        clock=lambda: now,
    )
    lease_thread.note_tick(View(0, frozenset()))
    lease_thread.run_once()
    assert read_workers(session).holders() == dict.fromkeys(QUEUES, "one@host")
    with activity.batch("payment.1", 50):
        now += 2
        lease_thread.run_once()
        [worker] = read_workers(session).workers
        assert (worker.busy_queue, worker.last_queue) == ("payment.1", None)
    now += 2
    lease_thread.note_tick(View(1, frozenset(QUEUES)))
    lease_thread.run_once()
    [worker] = read_workers(session).workers
    assert (worker.busy_queue, worker.last_queue) == (None, "payment.1")
    assert (worker.last_records, worker.last_seconds) == (50, 2.0)
