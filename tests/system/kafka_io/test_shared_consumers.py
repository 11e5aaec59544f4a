"""Members of a group whose installation takes a share of the partitions."""

from collections.abc import Iterable
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from sluice.kafka_io import shared_assignment
from sluice.kafka_io.consumer import Consumer
from sluice.kafka_io.kafka_python_consumer import KafkaPythonConsumer
from sluice.kafka_io.record_types import Record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place
from sluice.stack import Stack
from tests.system.kafka_io.consuming import CLIENTS, POLL_SECONDS, AnyConsumer, poll_until, produce
from tests.waiting import wait_until

PARTITIONS = 12
SHARE = PartitionShare(1, 2)
OWN = range(0, PARTITIONS, 2)
PAIRS = [(one, other) for one in CLIENTS for other in CLIENTS]


@pytest.fixture
def wide_topic(kafka: Stack) -> str:
    """The name of an empty topic with 12 partitions."""
    name = f"wide-{uuid4().hex[:8]}"
    shape = {"num_partitions": PARTITIONS, "replication_factor": 1}
    with closing(KafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap_servers())) as admin:
        admin.create_topics({name: shape}, wait_for_metadata=True)
    return name


def open_member(client: type[AnyConsumer], kafka: Stack, topic: str, number: int) -> Consumer:
    return client(
        KafkaAccess(kafka.kafka_bootstrap_servers()),
        group=f"group-{topic}",
        instance=f"bridge-{number}",
        topics=[topic],
        share=SHARE,
    )


def poll_all(members: Iterable[Consumer]) -> list[Place]:
    """Polls each member once. Returns the partitions of the returned records."""
    return [place for member in members for place in member.poll(POLL_SECONDS)]


@pytest.mark.parametrize("clients", PAIRS, ids=lambda pair: "+".join(one.__name__ for one in pair))
def test_two_members_divide_the_partitions_of_the_share_and_get_no_other_records(
    clients: tuple[type[AnyConsumer], type[AnyConsumer]],
    kafka: Stack,
    wide_topic: str,
    producer: KafkaProducer,
) -> None:
    own = {(wide_topic, number) for number in OWN}
    with ExitStack() as opened:
        members = [
            opened.enter_context(closing(open_member(client, kafka, wide_topic, n)))
            for n, client in enumerate(clients)
        ]

        def divided() -> bool:
            poll_all(members)
            found = [member.assignment() for member in members]
            return all(found) and frozenset.union(*found) == own and not frozenset.intersection(*found)

        wait_until(divided, timeout_seconds=60, what="the partitions of the share are divided")
        assert [len(member.assignment()) for member in members] == [3, 3]
        assert all(list(member.topics()[wide_topic].numbers) == list(OWN) for member in members)
        for number in range(PARTITIONS):
            produce(producer, wide_topic, number, 5)
        for member in members:
            for place in member.assignment():
                member.seek(place, 0)
        got: set[Place] = set()

        def read() -> bool:
            got.update(poll_all(members))
            return got >= own

        wait_until(read, timeout_seconds=30, what="all partitions of the share are read")
        for _ in range(20):
            got.update(poll_all(members))
        assert got == own


def test_members_whose_polls_are_shorter_than_the_pauses_between_them_get_their_partitions(
    kafka: Stack, wide_topic: str
) -> None:
    """The answers to a join then arrive between two polls."""
    polls = iter(range(300))
    with ExitStack() as opened:
        members = [
            opened.enter_context(closing(open_member(KafkaPythonConsumer, kafka, wide_topic, n)))
            for n in range(2)
        ]

        def divided() -> bool:
            next(polls)
            for member in members:
                member.poll(0.001)
            return [len(member.assignment()) for member in members] == [3, 3]

        wait_until(divided, timeout_seconds=60, what="the partitions are divided", poll_seconds=0.1)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_partition_of_a_share_is_sought_paused_and_resumed_beside_others(
    client: type[AnyConsumer], kafka: Stack, wide_topic: str, producer: KafkaProducer
) -> None:
    first, second = (wide_topic, 0), (wide_topic, 2)
    with closing(open_member(client, kafka, wide_topic, 0)) as member:

        def joined() -> bool:
            member.poll(POLL_SECONDS)
            return len(member.assignment()) == len(OWN)

        wait_until(joined, timeout_seconds=60, what="the partitions are assigned")
        assert member.has_partitions()
        produce(producer, *first, 10)
        produce(producer, *second, 10)
        member.seek(first, 0)
        got: dict[Place, list[Record]] = {}
        poll_until(member, got, first, 10)
        assert second not in got or client is not CLIENTS[0], "fetched before its first seek"
        # A seek of one partition neither repeats nor skips records of another partition.
        produce(producer, *first, 10)
        member.seek(second, 4)
        got.pop(second, None)
        poll_until(member, got, second, 6)
        poll_until(member, got, first, 20)
        assert [record.offset for record in got[first]] == list(range(20))
        assert [record.offset for record in got[second]] == list(range(4, 10))
        member.pause_exactly([first])
        assert member.paused() == {first}
        produce(producer, *first, 1)
        produce(producer, *second, 1)
        poll_until(member, got, second, 7)
        assert len(got[first]) == 20
        # The seek of the second partition assigns all partitions again; the first one stays paused.
        member.seek(second, 10)
        poll_until(member, got, second, 8)
        assert len(got[first]) == 20
        member.pause_exactly([])
        poll_until(member, got, first, 21)


def test_a_mutant_with_an_assignor_of_single_partitions_is_caught(
    kafka: Stack, wide_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two members gets all partitions of the share, and the other one none."""
    monkeypatch.setattr(shared_assignment, "SHARED_STRATEGY", "roundrobin")
    with ExitStack() as opened:
        members = [
            opened.enter_context(closing(open_member(CLIENTS[0], kafka, wide_topic, n))) for n in range(2)
        ]

        def settled() -> bool:
            poll_all(members)
            return all(member.has_partitions() for member in members)

        wait_until(settled, timeout_seconds=60, what="both members have partitions")
        assert sorted(len(member.assignment()) for member in members) == [0, len(OWN)]
