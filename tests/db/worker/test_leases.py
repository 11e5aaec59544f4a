"""Sharing queues by locks in Postgres: no queue has two workers, and in the end every queue has a worker."""

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import pytest

from sluice.db.connection import Session
from sluice.db.delivery.leases import read_lease_snapshot
from sluice.db.delivery.progress import register_entity
from sluice.worker import lease_thread as lease_thread_module
from sluice.worker.lease_thread import SILENT_SECONDS, STUCK_SECONDS, is_responsive, stuck_seconds
from tests.db.worker.leasing import Member, Workers
from tests.mutants import mutated
from tests.waiting import wait_until

QUEUES = {f"thing.{shard}" for shard in range(8)}


@pytest.fixture
def queues(session: Session) -> set[str]:
    register_entity(session, "thing", 8)
    return QUEUES


@pytest.fixture
def workers(database_url: str, queues: set[str]) -> Iterator[Workers]:
    made = Workers(database_url)
    yield made
    made.close()


def shares(workers: Workers) -> list[int]:
    return [len(member.consumed) for member in workers.members]


def terminate(session: Session, member: Member) -> None:
    with session.connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (member.pid,))


def test_a_worker_that_starts_before_its_queues_exist_takes_them_later(
    database_url: str, session: Session
) -> None:
    workers = Workers(database_url)
    try:
        early = workers.join()
        workers.turns()
        assert early.consumed == set()
        register_entity(session, "thing", 8)
        workers.turns()
        assert early.consumed == QUEUES
    finally:
        workers.close()


def test_one_worker_takes_all_queues_and_releases_half_of_them_to_a_second_worker(workers: Workers) -> None:
    first = workers.join()
    workers.turns()
    assert first.consumed == QUEUES
    second = workers.join()
    workers.turns()
    assert shares(workers) == [4, 4]
    assert first.consumed | second.consumed == QUEUES


def test_four_workers_share_eight_queues_and_take_over_the_queues_of_a_stopped_worker(
    workers: Workers,
) -> None:
    for _ in range(4):
        workers.join()
    workers.turns()
    assert shares(workers) == [2, 2, 2, 2]
    workers.members.pop().leave()
    workers.turns()
    assert sorted(shares(workers)) == [2, 3, 3]


def test_a_queue_is_released_only_when_the_loop_no_longer_pops_it(workers: Workers) -> None:
    first = workers.join()
    workers.turns()
    first.in_flight = set(QUEUES)
    second = workers.join()
    workers.turns()
    assert (first.consumed, second.consumed) == (QUEUES, set())
    first.in_flight = {"thing.3"}
    workers.turns()
    assert len(second.consumed) in (3, 4)
    assert not first.consumed & second.consumed
    first.in_flight = set()
    workers.turns()
    assert shares(workers) == [4, 4]


def test_a_late_loop_pops_no_queue_that_another_worker_holds(workers: Workers) -> None:
    assert act_late(workers) == set()
    workers.turns()
    assert shares(workers) == [4, 4]


def test_a_mutant_that_ignores_the_version_that_the_loop_read_is_detected(
    database_url: str, queues: set[str]
) -> None:
    mutant = mutated(lease_thread_module, "consumed.version >= version and ", "")
    workers = Workers(database_url, mutant.LeaseThread)
    try:
        assert len(act_late(workers)) == 4
    finally:
        workers.close()


def act_late(workers: Workers) -> set[str]:
    """Changes the wanted queues two times within one tick. Returns the queues that both workers pop."""
    first, second = workers.join(), workers.join()
    first.tick()
    second.tick()
    first.lease_thread.run_once()
    first.look()
    second.lease_thread.run_once()
    for _ in range(2):
        first.lease_thread.run_once()
        second.turn()
    first.act()
    return first.consumed & second.consumed


def test_a_worker_whose_session_postgres_ends_loses_its_queues_and_joins_again(
    workers: Workers, session: Session
) -> None:
    first, second = workers.join(), workers.join()
    workers.turns()
    terminate(session, first)
    second.turn()
    assert second.consumed == QUEUES
    first.turn()
    assert first.consumed == set(), "the loop pops no queue that another worker holds"
    workers.turns()
    assert shares(workers) == [4, 4]


def test_a_worker_with_an_unresponsive_loop_releases_its_queues(workers: Workers) -> None:
    first, second = workers.join(), workers.join()
    workers.turns()
    first.clock.now += SILENT_SECONDS + 1
    first.lease_thread.run_once()
    assert first.lease_thread.wanted.queues == frozenset()

    def all_taken() -> bool:
        second.turn()
        return second.consumed == QUEUES

    wait_until(all_taken, timeout_seconds=10, what="the second worker takes the released queues")
    workers.turns()
    assert shares(workers) == [4, 4]


def test_a_worker_whose_long_batch_has_just_ended_keeps_its_queues(workers: Workers) -> None:
    first = workers.join()
    workers.turns()
    with first.lease_thread.activity.batch("thing.0", 200):
        first.clock.now += 10 * SILENT_SECONDS
        first.lease_thread.run_once()
    first.lease_thread.run_once()
    assert first.lease_thread.wanted.queues == QUEUES, "the loop had no time for a tick"


@pytest.mark.parametrize(
    ("silent_seconds", "busy_seconds", "responsive"),
    [
        (SILENT_SECONDS - 0.1, None, True),
        (SILENT_SECONDS, None, False),
        (STUCK_SECONDS - 0.1, STUCK_SECONDS - 0.1, True),
        (STUCK_SECONDS, STUCK_SECONDS, False),
        (STUCK_SECONDS, 0.0, True),
    ],
)
def test_a_loop_in_a_batch_counts_as_responsive_for_longer(
    silent_seconds: float, busy_seconds: float | None, responsive: bool
) -> None:
    busy_since = None if busy_seconds is None else 100 - busy_seconds
    assert is_responsive(now=100, seen_at=100 - silent_seconds, busy_since=busy_since) is responsive


@pytest.mark.parametrize(("limit", "seconds"), [(0.1, 60), (10, 60), (30, 100), (300, 640)])
def test_the_time_limit_of_a_batch_depends_on_the_limit_of_its_handlers(limit: float, seconds: float) -> None:
    after = stuck_seconds(limit)
    assert after == seconds
    for busy, trusted in ((seconds - 1, True), (seconds, False)):
        assert is_responsive(now=1000, seen_at=0, busy_since=1000 - busy, stuck_after=after) is trusted


def test_new_queues_are_taken_and_retired_queues_are_shared_separately(
    workers: Workers, session: Session
) -> None:
    workers.join()
    workers.join()
    workers.turns()
    session.command("UPDATE sluice.entities SET shards = 4 WHERE entity = 'thing'")
    session.command("INSERT INTO sluice.queues (queue, entity) VALUES ('thing.9', 'thing')")
    workers.turns()
    used = {f"thing.{shard}" for shard in range(4)}
    assert [len(member.consumed & used) for member in workers.members] == [2, 2]
    assert sorted(len(member.consumed - used) for member in workers.members) == [2, 3]


def test_a_suspended_worker_loses_its_session_after_5_seconds(workers: Workers) -> None:
    member = workers.join()
    workers.turns()
    with member.lease_thread.session.connection.cursor() as cursor:
        cursor.execute("SHOW idle_session_timeout")
        assert cursor.fetchone() == ("5s",)


@pytest.mark.parametrize("seed", range(4))
def test_random_steps_never_let_two_workers_pop_one_queue(
    workers: Workers, session: Session, seed: int
) -> None:
    assert run_random_steps(workers, session, Random(seed)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("consumed.version >= version and queue not in consumed.queues", "consumed.version >= version"),
        ("try_lease(self.session, queue)", "True"),
    ],
    ids=["released while it is popped", "taken without the lock"],
)
def test_mutants_that_let_two_workers_pop_one_queue_are_detected(
    database_url: str, session: Session, queues: set[str], old: str, new: str
) -> None:
    mutant = mutated(lease_thread_module, old, new)
    found: list[str] = []
    for seed in range(6):
        workers = Workers(database_url, mutant.LeaseThread)
        try:
            found += run_random_steps(workers, session, Random(seed))
        finally:
            workers.close()
    assert found


def run_random_steps(workers: Workers, session: Session, rng: Random) -> list[str]:
    """Runs random steps. Returns queues that two loops popped at the same time, and queues without a worker.

    No step ends the session of a running worker, because such a worker may pop until its next tick.
    """
    found: list[str] = []
    for step in range(150):
        chosen: list[tuple[int, Callable[[], object]]] = (
            [(1, workers.join)] if len(workers.members) < 4 else []
        )
        if len(workers.members) > 1:
            chosen.append((1, lambda: workers.members.pop(rng.randrange(len(workers.members))).leave()))
        for member in workers.members:
            chosen += [(8, member.look), (8, member.act), (8, member.lease_thread.run_once), (2, member.turn)]
            chosen.append((3, lambda member=member: _hold(member, rng)))  # type: ignore[misc]
        rng.choices([act for _, act in chosen], [weight for weight, _ in chosen])[0]()
        found += [f"step {step}: {queue}" for queue in _popped_twice(workers)]
    for member in workers.members:
        member.in_flight = set()
    workers.turns(10)
    found += [f"at the end: {queue}" for queue in _popped_twice(workers)]
    held = {lease.queue for lease in read_lease_snapshot(session).leases if lease.holder is not None}
    return found + [f"no worker holds {queue}" for queue in QUEUES - held]


def _hold(member: Member, rng: Random) -> None:
    member.in_flight = {queue for queue in member.consumed if rng.random() < 0.3}


def _popped_twice(workers: Workers) -> list[str]:
    counts = Counter(queue for member in workers.members for queue in member.consumed)
    return [queue for queue, count in counts.items() if count > 1]
