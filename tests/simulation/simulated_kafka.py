"""The Kafka of a simulation. The group rebalances at random, and members learn of a rebalance late."""

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
    from tests.simulation.simulation import Simulation
from tests.simulation.simulated_services import PARTITIONS, PLACES, TOPIC, TOPIC_ID, TOPICS, ProgressStore


class Consumer:
    """A member of the group. Two members may have one partition, because a member notices a loss late."""

    def __init__(self, simulation: "Simulation") -> None:
        self.simulation = simulation
        self.positions: dict[Place, int] = {}
        self.changes: set[Place] = set()
        self._paused: frozenset[Place] = frozenset()

    def gain(self, place: Place) -> None:
        """Assigns the partition, at a random position or at the committed offset."""
        rng = self.simulation.rng
        self.positions[place] = rng.choice(
            [rng.randrange(self.simulation.end(place) + 1), self.simulation.committed.get(place, 0)]
        )
        self.changes.add(place)

    def lose(self, place: Place) -> None:
        self.positions.pop(place, None)
        self.changes.add(place)

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        if self.simulation.unlucky(0.05):
            self.simulation.rebalance()
        polled = {}
        for place, position in self.positions.items():
            if place in self._paused:
                continue
            log = [record for record in self.simulation.log[place] if record.offset >= position]
            count = self.simulation.rng.randrange(1, 12)
            if log:
                polled[place] = log[:count]
            self.positions[place] = (
                log[count - 1].offset + 1 if len(log) > count else self.simulation.end(place)
            )
        # If the group rebalances here, the poll still returns the fetched records.
        if self.simulation.unlucky(0.05):
            self.simulation.rebalance()
        return polled

    def take_changes(self) -> frozenset[Place]:
        changes, self.changes = frozenset(self.changes), set()
        return changes

    def take_truncated(self) -> dict[Place, str]:
        return {}

    def assignment(self) -> frozenset[Place]:
        return frozenset(self.positions)

    def has_partitions(self) -> bool:
        return bool(self.positions)

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
        return {place: LogRange(0, self.simulation.end(place)) for place in places}

    def topics(self) -> Mapping[str, TopicFacts]:
        return {TOPIC: TopicFacts(TOPIC_ID, len(PARTITIONS))}

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        self.simulation.committed.update(watermarks)

    def close(self) -> None:
        self.positions.clear()


class Watch:
    """Checks the logs at intervals. Any event may happen between the answers of Postgres and Kafka."""

    def __init__(self, store: ProgressStore) -> None:
        self.ends: Mapping[Place, int] = {}
        self._store = store
        self._topics: Mapping[str, TopicFacts] = {}

    def offer(self, topics: Mapping[str, TopicFacts], refused: Iterable[str]) -> None:
        self._topics = topics

    def take(self) -> Look | None:
        simulation = self._store.simulation
        began_at = simulation.now
        if simulation.rng.random() < 0.9:
            return None
        try:
            assignments = self._store.read_assignments(PLACES)
        except ProgressStoreUnavailable:
            return None
        simulation.meanwhile()
        logs = {place: LogRange(0, simulation.end(place)) for place in PLACES}
        judged = judge_logs(self._topics, TOPICS, assignments, logs)
        routings = {topic: one.routing for (topic, _), one in assignments.items()}
        return Look(began_at, frozenset(PLACES), judged, routings, {})
