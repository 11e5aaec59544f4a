"""Starts assigned partitions at the positions in Postgres, if this skips no records."""

from collections.abc import Iterable, Mapping

import structlog

from sluice.bridge.inflight import Inflight
from sluice.bridge.progress_store import ProgressStore
from sluice.bridge.start_conditions import LoudStop, NeedsRows, Start, judge_assignment, judge_share
from sluice.bridge.topic_stops import TopicStops
from sluice.db.delivery.progress import TopicStart
from sluice.kafka_io.consumer import Consumer, TopicFacts
from sluice.runtime.backoff import Backoffs
from sluice.runtime.place import Place
from sluice.tasks.api import Topic

log = structlog.get_logger("sluice.bridge")


class PartitionStarter:
    """All steps between the assignment of a partition and its first held record."""

    def __init__(
        self, store: ProgressStore, inflight: Inflight, topics: Mapping[str, Topic], stops: TopicStops
    ) -> None:
        self._store = store
        self._inflight = inflight
        self._topics = topics
        self._stops = stops
        self._differing: set[str] = set()
        # The topic ids with which all started partitions were compared; None after a start.
        self._compared: dict[str, str] | None = None
        # The checks of a partition that cannot be started are repeated with growing pauses, because they need
        # round trips, which delay the other partitions.
        self._unstarted: Backoffs[Place] = Backoffs()

    def start_new(self, consumer: Consumer, now: float) -> None:
        """Starts assigned partitions. A partition without rows gets rows, and starts in the next turn.

        Notes the reasons why partitions cannot be started. Raises ProgressStoreUnavailable or ConsumerBroken.
        Even then, each partition is either completely started or not started.
        """
        facts = consumer.topics()
        # If a topic was re-created with fewer partitions, the assignment still contains the old partitions.
        new = {
            (topic, number)
            for topic, number in consumer.assignment() - self._inflight.partitions.keys()
            if topic in facts
            and number < facts[topic].partitions
            and self._unstarted.allows((topic, number), now)
            and not self._stops.holds((topic, number))
        }
        if not new:
            return
        assignments = self._store.read_assignments(new)
        for topic in {topic for topic, _ in new}:
            if stop := judge_share(topic, facts[topic]):
                self._stops.note_finding((topic, facts[topic].share.first), stop, now)
        ranges = consumer.log_ranges(new)
        verdicts = {
            (topic, partition): judge_assignment(
                topic,
                partition,
                assignments.get((topic, partition)),
                topic_id=facts[topic].topic_id,
                log=ranges[topic, partition],
                share=facts[topic].share,
            )
            for topic, partition in sorted(ranges.keys() & new)
        }
        # All findings are noted before any partition is started, because a finding holds back all partitions
        # of its topic.
        for place, verdict in verdicts.items():
            if isinstance(verdict, LoudStop):
                self._stops.note_finding(place, verdict, now)
        unknown: set[str] = set()
        started: list[str] = []
        for place, verdict in verdicts.items():
            topic, partition = place
            if self._stops.holds(place):
                continue
            match verdict:
                case Start(assignment, watermark):
                    consumer.seek(place, watermark)
                    self._inflight.start(place, assignment, watermark)
                    self._compared = None
                    self._unstarted.note_success(place)
                    started.append(f"{topic}[{partition}] at {watermark}")
                    self._compare_shards(assignment.entity, assignment.shards, topic)
                case NeedsRows():
                    unknown.add(topic)
        if started:
            log.info("partitions started", partitions=started)
        for topic in sorted(unknown):
            if self._register(consumer, topic, facts[topic]):
                new -= {place for place in new if place[0] == topic}
        for place in new - self._inflight.partitions.keys():
            self._unstarted.note_failure(place, now)

    def find_unread(self, consumer: Consumer) -> list[Place]:
        """Returns partitions that are not assigned to this bridge, and that no bridge has started (no rows).

        Raises ProgressStoreUnavailable.
        """
        others = {
            (topic, number) for topic, known in consumer.topics().items() for number in known.numbers
        } - consumer.assignment()
        read = self._store.read_assignments(others)
        return [place for place in others if place not in read or read[place].watermark is None]

    def find_replaced(self, facts: Mapping[str, TopicFacts]) -> frozenset[Place]:
        """Returns the started partitions of topics that were re-created or deleted."""
        ids = {topic: known.topic_id for topic, known in facts.items()}
        if ids == self._compared:
            return frozenset()
        self._compared = ids
        return frozenset(
            place
            for place, partition in self._inflight.partitions.items()
            if ids.get(place[0]) != partition.assignment.topic_id
        )

    def _register(self, consumer: Consumer, topic: str, facts: TopicFacts) -> bool:
        declared = self._topics[topic]
        # All partitions are registered together. A partition that is registered later starts at offset 0,
        # even with start="latest".
        starts = find_starts(consumer, declared, facts.numbers)
        if len(starts) < len(facts.numbers):
            return False
        entity = declared.entity
        self._store.register_topic(
            TopicStart(topic, facts.topic_id, entity.name, entity.shards, starts, declared.dedup)
        )
        log.info("topic registered", topic=topic, start=declared.start, partitions=len(facts.numbers))
        return True

    def _compare_shards(self, entity: str, shards: int, topic: str) -> None:
        declared = self._topics[topic].entity.shards
        if shards != declared and entity not in self._differing:
            self._differing.add(entity)
            log.warning(
                "shards in code differ from Postgres; the number in Postgres is used; change it with"
                " `sluice reshard"
                ' ENTITY N --reason "…"`',
                entity=entity,
                declared=declared,
                shards=shards,
            )


def find_starts(consumer: Consumer, topic: Topic, partitions: Iterable[int]) -> dict[int, int]:
    """Returns the first offset to read per partition of a new topic. Raises ConsumerBroken."""
    ranges = consumer.log_ranges((topic.name, partition) for partition in partitions)
    return {
        partition: log_range.start if topic.start == "earliest" else log_range.end
        for (_, partition), log_range in ranges.items()
    }
