"""Sharing queues by locks in Postgres: nobody takes what others may still pop, and in the end all is held."""

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


def test_a_worker_that_comes_before_there_are_queues_takes_them_when_they_come(
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


def test_one_worker_takes_all_and_gives_a_second_its_half(workers: Workers) -> None:
    first = workers.join()
    workers.turns()
    assert first.consumed == QUEUES
    second = workers.join()
    workers.turns()
    assert shares(workers) == [4, 4]
    assert first.consumed | second.consumed == QUEUES


def test_four_workers_have_two_of_eight_each_and_what_one_leaves_the_others_take(workers: Workers) -> None:
    for _ in range(4):
        workers.join()
    workers.turns()
    assert shares(workers) == [2, 2, 2, 2]
    workers.members.pop().leave()
    workers.turns()
    assert sorted(shares(workers)) == [2, 3, 3]


def test_a_queue_is_let_go_only_when_the_loop_pops_nothing_of_it(workers: Workers) -> None:
    first = workers.join()
    workers.turns()
    first.in_hand = set(QUEUES)
    second = workers.join()
    workers.turns()
    assert (first.consumed, second.consumed) == (QUEUES, set())
    first.in_hand = {"thing.3"}
    workers.turns()
    assert len(second.consumed) in (3, 4)
    assert not first.consumed & second.consumed
    first.in_hand = set()
    workers.turns()
    assert shares(workers) == [4, 4]


def test_a_loop_that_acts_late_on_what_it_saw_pops_nothing_of_what_others_have(workers: Workers) -> None:
    assert act_late(workers) == set()
    workers.turns()
    assert shares(workers) == [4, 4]


def test_a_mutant_that_does_not_ask_what_the_loop_saw_is_caught(database_url: str, queues: set[str]) -> None:
    mutant = mutated(lease_thread_module, "consumed.version >= version and ", "")
    workers = Workers(database_url, mutant.LeaseThread)
    try:
        assert len(act_late(workers)) == 4
    finally:
        workers.close()


def act_late(workers: Workers) -> set[str]:
    """Between what the first one's loop sees and what it does, its lease thread changes its mind twice."""
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


def test_a_session_that_postgres_ends_frees_its_queues_and_its_worker_comes_back(
    workers: Workers, session: Session
) -> None:
    first, second = workers.join(), workers.join()
    workers.turns()
    terminate(session, first)
    second.turn()
    assert second.consumed == QUEUES
    first.turn()
    assert first.consumed == set(), "its loop pops nothing of what others have"
    workers.turns()
    assert shares(workers) == [4, 4]


def test_a_worker_whose_loop_stands_still_leaves_its_queues_to_others(workers: Workers) -> None:
    first, second = workers.join(), workers.join()
    workers.turns()
    first.clock.now += SILENT_SECONDS + 1
    first.lease_thread.run_once()
    assert first.lease_thread.wanted.queues == frozenset()

    def all_taken() -> bool:
        second.turn()
        return second.consumed == QUEUES

    wait_until(all_taken, timeout_seconds=10, what="the other takes what was left")
    workers.turns()
    assert shares(workers) == [4, 4]


def test_a_worker_whose_long_batch_has_just_ended_keeps_its_queues(workers: Workers) -> None:
    first = workers.join()
    workers.turns()
    with first.lease_thread.activity.batch("thing.0", 200):
        first.clock.now += 10 * SILENT_SECONDS
        first.lease_thread.run_once()
    first.lease_thread.run_once()
    assert first.lease_thread.wanted.queues == QUEUES, "its loop had no time to come by"


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
def test_a_loop_in_a_batch_is_trusted_for_longer(
    silent_seconds: float, busy_seconds: float | None, responsive: bool
) -> None:
    busy_since = None if busy_seconds is None else 100 - busy_seconds
    assert is_responsive(now=100, seen_at=100 - silent_seconds, busy_since=busy_since) is responsive


@pytest.mark.parametrize(("limit", "seconds"), [(0.1, 60), (10, 60), (30, 100), (300, 640)])
def test_a_batch_may_take_as_long_as_its_handlers_may(limit: float, seconds: float) -> None:
    after = stuck_seconds(limit)
    assert after == seconds
    for busy, trusted in ((seconds - 1, True), (seconds, False)):
        assert is_responsive(now=1000, seen_at=0, busy_since=1000 - busy, stuck_after=after) is trusted


def test_queues_of_a_larger_number_of_shards_are_taken_too_and_retired_ones_shared_apart(
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


def test_a_stopped_worker_is_no_member_after_some_seconds(workers: Workers) -> None:
    member = workers.join()
    workers.turns()
    with member.lease_thread.session.connection.cursor() as cursor:
        cursor.execute("SHOW idle_session_timeout")
        assert cursor.fetchone() == ("5s",)


@pytest.mark.parametrize("seed", range(4))
def test_in_any_order_of_turns_no_queue_is_popped_by_two(
    workers: Workers, session: Session, seed: int
) -> None:
    assert play(workers, session, Random(seed)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("consumed.version >= version and queue not in consumed.queues", "consumed.version >= version"),
        ("try_lease(self.session, queue)", "True"),
    ],
    ids=["let go while it is popped", "taken without the lock"],
)
def test_mutants_that_let_two_pop_one_queue_are_caught(
    database_url: str, session: Session, queues: set[str], old: str, new: str
) -> None:
    mutant = mutated(lease_thread_module, old, new)
    found: list[str] = []
    for seed in range(6):
        workers = Workers(database_url, mutant.LeaseThread)
        try:
            found += play(workers, session, Random(seed))
        finally:
            workers.close()
    assert found


def play(workers: Workers, session: Session, rng: Random) -> list[str]:
    """Steps at random; every queue that two loops pop at a time, and every one that nobody does in the end.

    A worker that loses its session may pop on until its loop comes by: that is the guard's to bear.
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
        member.in_hand = set()
    workers.turns(10)
    found += [f"at the end: {queue}" for queue in _popped_twice(workers)]
    held = {lease.queue for lease in read_lease_snapshot(session).leases if lease.holder is not None}
    return found + [f"nobody holds {queue}" for queue in QUEUES - held]


def _hold(member: Member, rng: Random) -> None:
    member.in_hand = {queue for queue in member.consumed if rng.random() < 0.3}


def _popped_twice(workers: Workers) -> list[str]:
    counts = Counter(queue for member in workers.members for queue in member.consumed)
    return [queue for queue, count in counts.items() if count > 1]
