"""Facts of a working installation, and functions that return facts with a problem."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from sluice.admin.doctor.facts import Facts, GenerationFacts, LeavingFacts, StuckQueue, WorkingFacts
from sluice.db.admin.doctor_facts import NarrowedQueue
from sluice.db.admin.server_facts import Blocker, Horizon
from sluice.db.admin.waiting_facts import WaitingTopic
from sluice.db.delivery.living_processes import Process
from sluice.db.records import ProcessKind
from tests.unit.admin.doctor_facts import HEALTHY, POSTGRES


def process(kind: ProcessKind, *queues: str, topics: Sequence[str] = ("orders",)) -> Process:
    return Process(
        uuid4(), kind, "n", 1, 1, 1, queues or None, {}, dict.fromkeys(topics, "order"), ("notify",)
    )


BRIDGE, BEAT = process(ProcessKind.BRIDGE), process(ProcessKind.BEAT)
RELAY = process(ProcessKind.WORKER, "relay", "maintenance")
EFFECTS, REBUILD = process(ProcessKind.WORKER, "effects"), process(ProcessKind.WORKER, "rebuild")
ALL = (BRIDGE, BEAT, RELAY, EFFECTS, REBUILD)
BUILDING = GenerationFacts("revenue", 2, "building", 2, None, 0.1)
SESSION = Horizon("session", "77", "psql", "ada", "idle in transaction", "SELECT 1", 900.0, 5)
WORKING_POSTGRES = replace(POSTGRES, living=ALL, leaving=LeavingFacts(), working=WorkingFacts())
WORKING = Facts(
    replace(HEALTHY.declared, effects={"notify"}, holding={"notify"}),
    WORKING_POSTGRES,
    HEALTHY.redis,
    HEALTHY.kafka,
    {},
)


def but(**changed: Any) -> Facts:
    """Returns the facts of a working installation, except for the given facts about Postgres."""
    return replace(WORKING, postgres=replace(WORKING_POSTGRES, **changed))


def leaving(**changed: Any) -> Facts:
    return but(leaving=LeavingFacts(**changed))


def server(**changed: Any) -> Facts:
    return but(working=WorkingFacts(**changed))


def without(*absent: Process, **changed: Any) -> Facts:
    return but(living=[one for one in ALL if one not in absent], **changed)


def late(seconds: float, topic: str = "out", free: int = 3) -> WaitingTopic:
    return WaitingTopic(topic, 5, "order.1", 7, free, seconds)


def failing(error: str) -> NarrowedQueue:
    return NarrowedQueue("order.1", "orders", 2, 7, None, error, 1.0)


def stuck(*blockers: Blocker) -> Facts:
    return replace(WORKING, stuck=[StuckQueue("order.1", 4, 15.2, blockers)])
