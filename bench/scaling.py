"""The model of docs/scaling.md: predicts the throughput of an installation from the cost of one event. Pure.

A worker applies one batch after the other: it uses its own CPU, then waits while Postgres works for it, then
waits for the commit and for messages. So one worker is limited by the sum of these times, and several workers
add up until the cores of the machine or the bridges are the limit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MICROSECONDS = 1_000_000
MOST_MISS = 0.20
"""A model that misses a run by more is wrong, and must be corrected."""

# The rest of the CPU is left for vacuum, checkpoints and readers. Chosen, not measured.
POSTGRES_SHARE = 2 / 3


class Limit(StrEnum):
    """The part that limits the throughput."""

    WORKERS = "workers"
    BRIDGES = "bridges"
    CORES = "cores"


@dataclass(frozen=True)
class EventCost:
    """The cost of one event in full batches, in microseconds. All fields but the last are CPU time."""

    worker: float
    postgres: float
    bridge: float
    kafka: float
    redis: float
    waiting: float = 0.0
    """Time per event in which a worker uses no core: commits, messages, locks."""

    @property
    def cpu(self) -> float:
        """The CPU time per event of all processes."""
        return self.worker + self.postgres + self.bridge + self.kafka + self.redis

    @property
    def in_worker(self) -> float:
        """The time per event for which one worker is busy or waits."""
        return self.worker + self.postgres + self.waiting


@dataclass(frozen=True)
class Prediction:
    """The predicted throughput, and what limits it."""

    per_second: float
    limit: Limit


def predict(cost: EventCost, *, cores: int, workers: int, bridges: int = 1) -> Prediction:
    """Returns the throughput of one installation whose processes and servers share `cores` cores.

    The queues must be at least as many as the workers, and the partitions as many as the bridges.
    """
    limits = {
        Limit.WORKERS: workers * MICROSECONDS / cost.in_worker,
        Limit.BRIDGES: bridges * MICROSECONDS / cost.bridge,
        Limit.CORES: cores * MICROSECONDS / cost.cpu,
    }
    limit = min(limits, key=lambda one: limits[one])
    return Prediction(limits[limit], limit)


def waiting_of(cost: EventCost, *, measured_per_second: float) -> float:
    """Returns the waiting time per event that explains the throughput of one worker; at least 0.

    Derived from the run with one worker, so only the runs with more workers check the model.
    """
    return max(0.0, MICROSECONDS / measured_per_second - cost.worker - cost.postgres)


def cores_for(cost: EventCost, *, per_second: float) -> Mapping[str, float]:
    """Returns part → the cores that it uses at this rate."""
    parts = {
        "worker": cost.worker,
        "postgres": cost.postgres,
        "bridge": cost.bridge,
        "kafka": cost.kafka,
        "redis": cost.redis,
    }
    return {part: us * per_second / MICROSECONDS for part, us in parts.items()}


def postgres_carries(cost: EventCost, *, cores: int) -> float:
    """Returns the events per second that the CPU of a Postgres with this number of cores allows."""
    return cores * POSTGRES_SHARE * MICROSECONDS / cost.postgres


def miss_of(prediction: Prediction, *, measured_per_second: float) -> float:
    """Returns the relative error of a prediction: positive if it is too high."""
    return prediction.per_second / measured_per_second - 1
