"""Detection of a queue that has messages but commits no batch, and of the session that blocks its worker."""

import threading
from collections.abc import Callable, Iterator

import pytest

from sluice.admin.doctor.queue_watch import LOOK_SECONDS, watch_queues
from sluice.db.connection import Session
from sluice.db.delivery.progress import TopicStart, register_topic
from tests.waiting import WAITING_BACKENDS, wait_until

SECONDS = 2 * LOOK_SECONDS


class Machine:
    """A simulated clock. Each `sleep` advances the clock and runs the next action."""

    def __init__(self, *actions: Callable[[], object]) -> None:
        self.now = 0.0
        self._actions = iter(actions)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        next(self._actions, lambda: None)()


@pytest.fixture
def queues(session: Session) -> Session:
    """Creates two queues with committed batches."""
    register_topic(session, TopicStart("orders", "id-1", "order", 2, {0: 10}))
    session.command(
        "INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset)"
        " VALUES ('orders', 0, 'order.0', 1, 5), ('orders', 0, 'order.1', 1, 7)"
    )
    return session


def commit(session: Session, queue: str) -> None:
    session.command(
        f"UPDATE sluice.lane_offsets SET applied_offset = applied_offset + 1 WHERE queue = '{queue}'"
    )


def lengths(*readings: dict[str, int]) -> Callable[[], dict[str, int]]:
    """Returns a function that returns one reading after the other."""
    following: Iterator[dict[str, int]] = iter(readings)
    return lambda: next(following)


def found(session: Session, machine: Machine, *readings: dict[str, int]) -> list[str]:
    watched = watch_queues(session, lengths(*readings), SECONDS, sleep=machine.sleep, clock=machine.clock)
    return [one.queue for one in watched]


FULL = {"order.0": 5, "order.1": 3}


def test_watching_ends_immediately_if_the_queues_are_empty(queues: Session) -> None:
    machine = Machine()
    assert found(queues, machine, {"order.0": 0, "order.1": 0}) == []
    assert machine.now == 0


def test_a_queue_without_a_commit_is_reported_after_the_given_time(queues: Session) -> None:
    machine = Machine(lambda: commit(queues, "order.1"))
    assert found(queues, machine, FULL, {"order.0": 1, "order.1": 3}) == ["order.0"]
    assert machine.now == SECONDS


def test_watching_ends_when_all_queues_have_committed(queues: Session) -> None:
    def all_commit() -> None:
        commit(queues, "order.0")
        commit(queues, "order.1")

    machine = Machine(all_commit)
    assert found(queues, machine, FULL) == []
    assert machine.now == LOOK_SECONDS


def test_a_queue_that_is_empty_at_the_end_is_not_reported(queues: Session) -> None:
    assert found(queues, Machine(), FULL, {"order.0": 0, "order.1": 2}) == ["order.1"]


def test_a_queue_without_any_committed_batch_is_reported(queues: Session) -> None:
    assert found(queues, Machine(), {"order.9": 1}, {"order.9": 1}) == ["order.9"]


def test_the_session_that_blocks_the_workers_is_named(
    queues: Session, make_session: Callable[[], Session], database_url: str
) -> None:
    other = make_session()
    other.command("BEGIN; SELECT FROM sluice.queues WHERE queue = 'order.0' FOR UPDATE")
    limits = {"lock_timeout": "0", "statement_timeout": "0"}
    worker = Session(database_url, application_name="sluice worker", settings=limits)
    wait = "SELECT FROM sluice.queues WHERE queue = 'order.0' FOR UPDATE"
    thread = threading.Thread(target=worker.command, args=(wait,))
    thread.start()
    try:
        with queues.connection.cursor() as cursor:

            def is_waiting() -> bool:
                cursor.execute(WAITING_BACKENDS)
                return cursor.rowcount == 1

            wait_until(is_waiting, timeout_seconds=10, what="the worker waits")
        machine = Machine()
        [one] = watch_queues(
            queues,
            lengths({"order.0": 5}, {"order.0": 5}),
            SECONDS,
            sleep=machine.sleep,
            clock=machine.clock,
        )
    finally:
        other.roll_back()
        thread.join()
        worker.close()
    assert (one.messages, one.seconds) == (5, SECONDS)
    assert [blocker.pid for blocker in one.blockers] == [other.connection.info.backend_pid]
