"""After workers join or leave, the queues are distributed evenly with as few moves as possible."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from sluice.db.delivery.leases import Declared, Lease, LeaseSnapshot
from sluice.worker import lease_assignor
from sluice.worker.lease_assignor import Moves, decide_moves, fair_share

QUEUES = [f"{entity}.{shard}" for entity in ("order", "payment", "stock") for shard in range(4)]
EVERYTHING = Declared(dict.fromkeys(("order", "payment", "stock"), frozenset()), 1)
SETTLED = 12  # turns of each worker, more than any case needs


@dataclass
class World:
    """A simulation of queues, workers (by process id) and locks. A turn of a worker takes no time."""

    rng: Random
    queues: list[str]
    retired: frozenset[str] = frozenset()
    workers: set[int] = field(default_factory=set)
    holders: dict[str, int] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    declared: dict[int, Declared] = field(default_factory=dict)
    topics: dict[str, frozenset[str]] = field(default_factory=dict)

    def join(self) -> None:
        self.workers.add(max(self.workers, default=0) + 1)

    def leave(self, worker: int) -> None:
        self.workers.discard(worker)
        self.holders = {queue: holder for queue, holder in self.holders.items() if holder != worker}

    def moves(self, worker: int) -> Moves:
        leases = tuple(Lease(q, q in self.retired, self.holders.get(q)) for q in self.queues)
        wanted = {q for q, holder in self.holders.items() if holder == worker}
        shuffle = self.rng.sample
        declared = {one: self.declared.get(one, EVERYTHING) for one in self.workers}
        snapshot = LeaseSnapshot(worker, frozenset(self.workers), leases, declared, self.topics)
        return decide_moves(snapshot, wanted, lambda queues: shuffle(list(queues), len(queues)))

    def turn(self, worker: int) -> int:
        moves, changes = self.moves(worker), 0
        for queues, count in moves.tries:
            for queue in [queue for queue in queues if queue not in self.holders][:count]:
                self.holders[queue] = worker
                self.moved.append(queue)
                changes += 1
        for queue in moves.give:
            del self.holders[queue]
            changes += 1
        return changes

    def settle(self) -> int:
        """Lets the workers take turns in random orders; returns the number of changes of the last round."""
        changes = 0
        for _ in range(SETTLED):
            changes = sum(
                self.turn(worker) for worker in self.rng.sample(sorted(self.workers), len(self.workers))
            )
        return changes

    def shares(self, queues: list[str]) -> Counter[int]:
        counts = Counter(dict.fromkeys(self.workers, 0))
        counts.update(self.holders[queue] for queue in queues)
        return counts


@given(st.dictionaries(st.integers(1, 99), st.integers(0, 40), min_size=1, max_size=9), st.integers(0, 60))
def test_the_shares_add_up_and_differ_by_at_most_one(held: dict[int, int], queues: int) -> None:
    shares = [fair_share(held, member, queues) for member in held]
    assert sum(shares) == queues
    assert max(shares) - min(shares) <= 1


@given(st.randoms(use_true_random=False), st.integers(1, 12), st.data())
def test_after_workers_join_and_leave_all_queues_are_distributed_evenly(
    rng: Random, count: int, data: st.DataObject
) -> None:
    queues = QUEUES[:count]
    world = World(rng, queues, retired=frozenset(data.draw(st.sets(st.sampled_from(queues)))))
    world.join()
    for _ in range(data.draw(st.integers(0, 12))):
        if len(world.workers) > 1 and rng.random() < 0.4:
            world.leave(rng.choice(sorted(world.workers)))
        else:
            world.join()
        world.turn(rng.choice(sorted(world.workers)))
    assert world.settle() == 0
    for group in (queues, sorted(world.retired), sorted(set(queues) - world.retired)):
        assert set(group) <= world.holders.keys()
    for group in (sorted(world.retired), sorted(set(queues) - world.retired)):
        shares = world.shares(group).values()
        assert max(shares) - min(shares) <= 1, world.holders


@given(st.randoms(use_true_random=False), st.integers(1, 8))
def test_when_a_worker_joins_only_its_share_moves(rng: Random, workers: int) -> None:
    world = World(rng, QUEUES)
    for _ in range(workers):
        world.join()
    world.settle()
    world.moved.clear()
    world.join()
    newcomer = max(world.workers)
    world.settle()
    assert len(world.moved) == world.shares(QUEUES)[newcomer]


@given(st.randoms(use_true_random=False), st.integers(2, 8))
def test_when_a_worker_leaves_only_its_queues_move(rng: Random, workers: int) -> None:
    world = World(rng, QUEUES)
    for _ in range(workers):
        world.join()
    world.settle()
    leaver = rng.choice(sorted(world.workers))
    held = {queue for queue, holder in world.holders.items() if holder == leaver}
    world.moved.clear()
    world.leave(leaver)
    world.settle()
    assert sorted(world.moved) == sorted(held)


@given(st.randoms(use_true_random=False))
def test_two_workers_share_every_entity_type_evenly(rng: Random) -> None:
    world = World(rng, QUEUES)
    for _ in range(2):
        world.join()
        world.settle()
    for entity in ("order", "payment", "stock"):
        assert set(world.shares([q for q in QUEUES if q.startswith(entity)]).values()) == {2}


def test_a_queue_that_its_holder_is_giving_back_cannot_be_taken() -> None:
    leases = (Lease("order.0", False, 1), Lease("order.1", False, 2))
    declared = dict.fromkeys((1, 2), EVERYTHING)
    moves = decide_moves(LeaseSnapshot(1, frozenset({1, 2}), leases, declared), set(), list)
    assert moves == Moves((), (), is_short=True)


def test_a_mutant_that_gives_larger_shares_to_lower_numbers_moves_a_queue_without_need() -> None:
    from tests.mutants import mutated

    mutant = mutated(lease_assignor, "(-held[member], member)", "member")
    held = {1: 1, 2: 2}  # three queues; the second worker already has the larger share
    assert [fair_share(held, member, 3) for member in held] == [1, 2]
    assert [mutant.fair_share(held, member, 3) for member in held] == [2, 1]
