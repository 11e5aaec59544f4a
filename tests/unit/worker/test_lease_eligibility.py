"""The topics that the code of a worker declares decide which queues the worker may have or must give back."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.delivery.leases import Declared, LeaseSnapshot
from sluice.worker import lease_assignor, queue_yields
from sluice.worker.lease_assignor import eligible, fair_share, may_yield
from sluice.worker.queue_yields import HELD_SECONDS, YIELDED_SECONDS, Left, QueueYields
from tests.mutants import mutated
from tests.unit.worker.test_lease_assignor import QUEUES, World

TOPICS = {"order": frozenset("ab"), "payment": frozenset("p"), "stock": frozenset()}


def declares(format: int = 1, yielded: str = "", **topics: str) -> Declared:
    return Declared(
        {entity: frozenset(names) for entity, names in topics.items()}, format, frozenset(yielded.split())
    )


def snapshot(**members: Declared) -> LeaseSnapshot:
    """Returns the snapshot that m1 reads; the members are named m1, m2, …"""
    found = {int(name[1:]): declared for name, declared in members.items()}
    return LeaseSnapshot(1, frozenset({1, *found}), (), found, TOPICS)


@pytest.mark.parametrize(
    ("members", "able"),
    [
        ({"m1": declares(order="ab"), "m2": declares(order="ab")}, {1, 2}),
        ({"m1": declares(order="a"), "m2": declares(order="ab")}, {2}),
        ({"m1": declares(order="a"), "m2": declares(order="b")}, {1, 2}),
        # A topic that is not registered is ignored.
        ({"m1": declares(order="a"), "m2": declares(order="xyz"), "m3": declares(payment="p")}, {1}),
        ({"m1": declares(), "m2": declares(order="")}, {2}),
        ({"m1": declares(), "m2": declares(payment="p")}, set()),
        ({"m1": declares(order="ab", yielded="order.0"), "m2": declares(order="a")}, {2}),
        ({"m1": declares(order="ab", yielded="order.1"), "m2": declares(order="a")}, {1}),
        # All members have given the queue back, so the returns are ignored.
        ({"m1": declares(order="a", yielded="order.0"), "m2": declares(order="ab", yielded="order.0")}, {2}),
        # A member that declares the missing topic or format is preferred, even if it declares fewer topics.
        ({"m1": declares(yielded="order.0", order="a"), "m2": declares(order="a"), "m3": declares(order="b")},
         {3}),
        ({"m1": declares(yielded="order.0", order="ab"), "m2": declares(order="ab"),
          "m3": declares(2, order="a")}, {3}),
    ],
)  # fmt: skip
def test_the_members_that_declare_most_are_eligible(members: dict[str, Declared], able: set[int]) -> None:
    assert eligible(snapshot(**members), "order.0") == able


def test_a_member_without_a_row_declares_nothing() -> None:
    assert eligible(snapshot(m2=declares(order="a")), "order.0") == {2}


@pytest.mark.parametrize(
    ("other", "topics", "message_format", "may"),
    [
        (declares(order="b"), "b", 0, True),
        (declares(order="a"), "b", 0, False),
        (declares(payment="b"), "b", 0, False),
        (declares(order="b", yielded="order.0"), "b", 0, False),
        (declares(2, order="a"), "", 2, True),
        (declares(1, order="a"), "", 2, False),
        (declares(2, payment="p"), "", 2, False),
        (declares(2, order="a"), "", 0, False),
    ],
)
def test_a_queue_is_given_back_if_another_worker_can_process_it(
    other: Declared, topics: str, message_format: int, may: bool
) -> None:
    found = snapshot(m1=declares(order="a"), m2=other)
    assert may_yield(found, "order.0", topics=topics, message_format=message_format) is may


entities = st.sampled_from(("order", "payment", "stock"))
declarations = st.builds(
    lambda topics, format: Declared(topics, format),
    st.dictionaries(entities, st.frozensets(st.sampled_from("abp"))),
    st.integers(1, 2),
)


@given(
    st.randoms(use_true_random=False),
    st.dictionaries(st.integers(1, 6), declarations, min_size=1),
    st.data(),
)
def test_after_some_turns_each_queue_has_an_eligible_holder_and_the_shares_are_even(
    rng: Random, declared: dict[int, Declared], data: st.DataObject
) -> None:
    yielded = {
        member: one._replace(yielded=frozenset(data.draw(st.sets(st.sampled_from(QUEUES)))))
        for member, one in declared.items()
    }
    world = World(rng, QUEUES, declared=yielded, topics=TOPICS)
    # The first holders are arbitrary and may be ineligible.
    world.workers = set(declared)
    for queue in QUEUES:
        if holder := data.draw(st.sampled_from([None, *sorted(declared)])):
            world.holders[queue] = holder
    assert world.settle() == 0
    held = LeaseSnapshot(min(declared), frozenset(declared), (), yielded, TOPICS)
    groups: dict[frozenset[int], list[str]] = {}
    for queue in QUEUES:
        able = eligible(held, queue)
        serving = [one for one in declared.values() if queue.rpartition(".")[0] in one.topics]
        assert bool(able) == bool(serving)
        assert (world.holders.get(queue) in able) if able else (queue not in world.holders)
        groups.setdefault(able, []).append(queue)
    for able, queues in groups.items():
        shares = [sum(world.holders[queue] == member for queue in queues) for member in able]
        assert not able or max(shares) - min(shares) <= 1
    moved = len(world.moved)
    world.settle()
    assert len(world.moved) == moved, "no queue moves again"


@given(st.dictionaries(st.integers(1, 6), st.integers(0, 12), min_size=1))
def test_workers_with_the_same_code_are_all_eligible_and_share_all_queues(held: dict[int, int]) -> None:
    same = declares(order="ab", payment="p", stock="")
    found = LeaseSnapshot(min(held), frozenset(held), (), dict.fromkeys(held, same), TOPICS)
    assert {eligible(found, queue) for queue in QUEUES} == {frozenset(held)}
    assert sum(fair_share(held, member, len(QUEUES)) for member in held) == len(QUEUES)


def test_a_queue_is_given_back_after_a_delay_and_may_be_taken_after_another_delay() -> None:
    yields = QueueYields()
    yields.note("order.0", topics=["b"])
    yields.note("order.0", message_format=2)
    yields.note("order.1", topics=["b"])
    asked: list[tuple[str, Left]] = []

    def choose(now: float, held: str = "order.0", may: bool = True) -> list[str]:
        def may_yield(queue: str, left: Left) -> bool:
            asked.append((queue, left))
            return may

        return yields.choose({"order.0": 100.0}, held.split(), now, may_yield)

    assert choose(100 + HELD_SECONDS - 1) == []
    assert choose(100 + HELD_SECONDS, held="") == []
    assert choose(100 + HELD_SECONDS, may=False) == []
    assert asked == [("order.0", Left(frozenset("b"), 2))]
    assert choose(200) == ["order.0"]
    assert choose(201) == [], "a queue is given back one time for each `note`"
    assert yields.yielded(200 + YIELDED_SECONDS - 1) == {"order.0"}
    assert yields.yielded(200 + YIELDED_SECONDS) == frozenset()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("in snapshot.of(m).topics}", "in snapshot.of(m).topics or True}"),
        ("if queue not in one.yielded}", "}"),
        ("for m, one in (serving or declaring).items()", "for m, one in serving.items()"),
        ("len(lacking & one.topics[entity]),", ""),
        ("one.format if yielders else 0,", ""),
        ("if rank == best", ""),
    ],
)
def test_a_mutant_of_the_eligibility_rule_is_caught(old: str, new: str) -> None:
    mutant = mutated(lease_assignor, old, new)
    [cases] = [mark.args[1] for mark in test_the_members_that_declare_most_are_eligible.pytestmark]  # type: ignore[attr-defined]

    def fails(members: dict[str, Declared], able: set[int]) -> bool:
        try:
            return bool(mutant.eligible(snapshot(**members), "order.0") != able)
        except KeyError:
            return True

    assert any(fails(*case) for case in cases)


def test_a_mutant_that_gives_a_queue_back_at_once_is_caught() -> None:
    mutant = mutated(queue_yields, ">= HELD_SECONDS", ">= 0")
    yields = mutant.QueueYields()
    yields.note("order.0", topics=["b"])
    assert yields.choose({"order.0": 100.0}, ["order.0"], 101.0, lambda *_: True) == ["order.0"]
