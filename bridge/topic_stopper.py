"""Stops topics: drops their partitions, reports the stops, and ends a bridge without a readable topic."""

from collections.abc import Collection

import structlog

from sluice.bridge.inflight import Inflight
from sluice.bridge.log_watch import LogWatch
from sluice.bridge.partition_problems import PartitionProblems
from sluice.bridge.start_conditions import LoudStop
from sluice.bridge.topic_stops import BridgeStopped, TopicStops
from sluice.kafka_io.consumer import Consumer
from sluice.runtime.place import Place

log = structlog.get_logger("sluice.bridge")


class TopicStopper:
    """The part of the bridge's turn that handles stopped topics.

    The partitions of stopped topics stay assigned.
    """

    def __init__(
        self, watch: LogWatch, inflight: Inflight, declared: Collection[str], problems: PartitionProblems
    ) -> None:
        self.stops = TopicStops()
        self._watch = watch
        self._inflight = inflight
        self._declared = declared
        self._problems = problems

    def take_look(self, consumer: Consumer) -> None:
        """Applies the newest look of the log watch. Raises BridgeStopped if no topic is left to read."""
        topics, refused = consumer.topics(), consumer.topic_errors()
        self._watch.offer(topics, refused)
        look = self._watch.take()
        if look is None:
            return
        before = self.stops.stopped().keys()
        self.stops.note_look(look, consumer.assignment())
        for topic in sorted(before - self.stops.stopped().keys()):
            log.info("topic is no longer stopped", topic=topic)
        self._forget_stopped()
        # If Kafka refuses to return facts for a topic, the topic may still exist.
        if self.stops.nothing_is_left(self._declared, [*topics, *refused]):
            raise BridgeStopped(" ".join(self.stops.stopped().values()))

    def stop(self, place: Place, stop: LoudStop, now: float) -> None:
        """Stops the topic of a partition at once, if this bridge reads the partition."""
        partition = self._inflight.partitions.get(place)
        if partition is not None:
            self.stops.note_event(place, stop, partition.assignment.routing, now)
            self._forget_stopped()

    def _forget_stopped(self) -> None:
        stopped = self.stops.stopped()
        for place in [place for place in self._inflight.partitions if place[0] in stopped]:
            self._inflight.forget(place)
        self.stops.show(self._problems)
