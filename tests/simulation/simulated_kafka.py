"""Kafka as the bridges of one world reach it. Groups notice late, and rebalance at random."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sluice.bridge.progress_store import ProgressStoreUnavailable
from sluice.bridge.start_conditions import judge_logs
from sluice.bridge.topic_stops import Look
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.kafka_errors import ClientError
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place

if TYPE_CHECKING:
    from tests.simulation.simulation import World
from tests.simulation.simulated_services import PARTITIONS, PLACES, TOPIC, TOPIC_ID, TOPICS, ProgressStore


class Consumer:
    """A member of the group. What it has may also be another's: groups notice late."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.positions: dict[Place, int] = {}
        self.changes: set[Place] = set()
        self._paused: frozenset[Place] = frozenset()

    def gain(self, place: Place) -> None:
        """Comes back with an old position, or with what was committed: never with the right one."""
        rng = self.world.rng
        self.positions[place] = rng.choice(
            [rng.randrange(self.world.end(place) + 1), self.world.committed.get(place, 0)]
        )
        self.changes.add(place)

    def lose(self, place: Place) -> None:
        self.positions.pop(place, None)
        self.changes.add(place)

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        if self.world.unlucky(0.05):
            self.world.rebalance()
        polled = {}
        for place, position in self.positions.items():
            if place in self._paused:
                continue
            log = [record for record in self.world.log[place] if record.offset >= position]
            count = self.world.rng.randrange(1, 12)
            if log:
                polled[place] = log[:count]
            self.positions[place] = log[count - 1].offset + 1 if len(log) > count else self.world.end(place)
        # A rebalance during the poll: what was fetched before it is returned all the same.
        if self.world.unlucky(0.05):
            self.world.rebalance()
        return polled

    def take_changes(self) -> frozenset[Place]:
        changes, self.changes = frozenset(self.changes), set()
        return changes

    def take_truncated(self) -> dict[Place, str]:
        return {}

    def assignment(self) -> frozenset[Place]:
        return frozenset(self.positions)

    def seek(self, place: Place, offset: int) -> None:
        if place in self.positions:
            self.positions[place] = offset

    def position(self, place: Place) -> int | None:
        return self.positions.get(place)

    def pause_exactly(self, places: Iterable[Place]) -> None:
        self._paused = frozenset(places)

    def paused(self) -> frozenset[Place]:
        return self._paused & self.positions.keys()

    def take_readable(self) -> frozenset[Place]:
        return frozenset()

    def take_errors(self) -> list[ClientError]:
        return []

    def topic_errors(self) -> dict[str, ClientError]:
        return {}

    def brokers_answer(self) -> bool:
        return True

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        return {place: LogRange(0, self.world.end(place)) for place in places}

    def topics(self) -> Mapping[str, TopicFacts]:
        return {TOPIC: TopicFacts(TOPIC_ID, len(PARTITIONS))}

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        self.world.committed.update(watermarks)

    def close(self) -> None:
        self.positions.clear()


class Watch:
    """Looks now and then; anything may happen between Postgres' answer and Kafka's."""

    def __init__(self, store: ProgressStore) -> None:
        self.ends: Mapping[Place, int] = {}
        self._store = store
        self._topics: Mapping[str, TopicFacts] = {}

    def offer(self, topics: Mapping[str, TopicFacts], refused: Iterable[str]) -> None:
        self._topics = topics

    def take(self) -> Look | None:
        world = self._store.world
        began_at = world.now
        if world.rng.random() < 0.9:
            return None
        try:
            assignments = self._store.read_assignments(PLACES)
        except ProgressStoreUnavailable:
            return None
        world.meanwhile()
        logs = {place: LogRange(0, world.end(place)) for place in PLACES}
        judged = judge_logs(self._topics, TOPICS, assignments, logs)
        routings = {topic: one.routing for (topic, _), one in assignments.items()}
        return Look(began_at, frozenset(PLACES), judged, routings, {})
