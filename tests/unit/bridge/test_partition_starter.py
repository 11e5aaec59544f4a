"""Tests how the bridge starts partitions before it reads their first record."""

from collections.abc import Iterable
from typing import Any, cast

from sluice.bridge.inflight import Inflight
from sluice.bridge.partition_starter import PartitionStarter
from sluice.bridge.topic_stops import TopicStops
from sluice.db.delivery.progress import Assignment, TopicStart
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place
from sluice.tasks.api import Entity, Topic

TOPIC = Topic("clicks", entity=Entity("click"), start="latest")


class _Kafka:
    """A consumer with all three partitions of the topic. The log range of partition 1 is unknown at first."""

    def __init__(self, share: PartitionShare = WHOLE, partitions: int = 3) -> None:
        self.facts = TopicFacts("id", partitions, share=share)
        self.asked = 0
        self.ranges = {("clicks", 0): LogRange(0, 10), ("clicks", 2): LogRange(3, 30)}

    def assignment(self) -> frozenset[Place]:
        return frozenset(("clicks", number) for number in self.facts.numbers)

    def topics(self) -> dict[str, TopicFacts]:
        return {"clicks": self.facts}

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        self.asked += 1
        return {place: self.ranges[place] for place in places if place in self.ranges}


class _Postgres:
    def __init__(self) -> None:
        self.registered: list[TopicStart] = []

    def read_assignments(self, _: Iterable[Place]) -> dict[Place, Assignment]:
        return {}

    def register_topic(self, start: TopicStart) -> None:
        self.registered.append(start)


def test_a_new_topic_gets_rows_for_all_its_partitions_at_once() -> None:
    kafka: Any = _Kafka()
    postgres: Any = _Postgres()
    starting = PartitionStarter(
        postgres, Inflight(max_bytes=1_000, max_span=1_000), {"clicks": TOPIC}, TopicStops()
    )
    starting.start_new(kafka, 0.0)
    assert not postgres.registered, (
        "a partition that is registered later would start at 0, and not at its end"
    )
    kafka.ranges["clicks", 1] = LogRange(0, 20)
    asked = kafka.asked
    starting.start_new(kafka, 0.05)
    assert kafka.asked == asked, "the bridge waits before the next attempt"
    starting.start_new(kafka, 0.1)
    assert [start.starts for start in postgres.registered] == [{0: 10, 1: 20, 2: 30}]


def test_a_share_registers_only_its_own_partitions_and_finds_those_that_are_unread() -> None:
    kafka: Any = _Kafka(PartitionShare(2, 2), 4)
    kafka.ranges = {("clicks", number): LogRange(0, number) for number in range(4)}
    postgres: Any = _Postgres()
    starting = PartitionStarter(
        postgres, Inflight(max_bytes=1_000, max_span=1_000), {"clicks": TOPIC}, TopicStops()
    )
    starting.start_new(kafka, 0.0)
    assert [start.starts for start in postgres.registered] == [{1: 1, 3: 3}]
    kafka.assignment = lambda: frozenset([("clicks", 1)])
    assert starting.find_unread(kafka) == [("clicks", 3)]


def test_a_topic_that_the_share_does_not_divide_is_not_registered() -> None:
    kafka: Any = _Kafka(PartitionShare(1, 2), 3)
    postgres: Any = _Postgres()
    stops = TopicStops()
    starting = PartitionStarter(postgres, Inflight(max_bytes=1_000, max_span=1_000), {"clicks": TOPIC}, stops)
    starting.start_new(kafka, 0.0)
    assert not postgres.registered
    assert stops.holds(("clicks", 0))


def test_partitions_are_replaced_when_their_topic_has_another_id_or_is_missing() -> None:
    inflight = Inflight(max_bytes=1_000, max_span=1_000)
    starting = PartitionStarter(cast("Any", _Postgres()), inflight, {"clicks": TOPIC}, TopicStops())
    for place in [("clicks", 0), ("clicks", 1), ("views", 0)]:
        inflight.start(place, Assignment("id", "click", 1, 1, 1, 0, {}), 0)
    views = {"views": TopicFacts("id", 1)}
    assert not starting.find_replaced({"clicks": TopicFacts("id", 3), **views})
    assert starting.find_replaced({"clicks": TopicFacts("id-2", 3), **views}) == {
        ("clicks", 0),
        ("clicks", 1),
    }
    assert starting.find_replaced({"clicks": TopicFacts("id", 3)}) == {("views", 0)}
