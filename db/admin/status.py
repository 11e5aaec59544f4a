"""What `sluice status` reads: watermarks, counters of lanes summed over partitions and epochs, queues."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sluice.db.admin.totals import read_positions, read_topic_ids
from sluice.db.apply.guard import COUNTERS
from sluice.db.connection import Session, Statement
from sluice.db.delivery.progress import ONE_SNAPSHOT


@dataclass(frozen=True)
class QueueState:
    """A queue: its entity type, and if it is halted, why and since when."""

    entity: str
    halted_reason: str | None = None
    halted_at: datetime | None = None


@dataclass(frozen=True)
class ProgressRead:
    """One snapshot of what was applied."""

    topics: frozenset[str]
    watermarks: Mapping[tuple[str, int], int]
    queues: Mapping[str, QueueState]
    counters: Mapping[tuple[str, str], Mapping[str, int]]
    """(topic, queue) → counter → records."""


READ_QUEUES = Statement(
    "read_queues", "SELECT queue, entity, halted_reason, halted_at FROM sluice.queues ORDER BY queue"
)


def read_queues(session: Session) -> dict[str, QueueState]:
    """All queues of all entity types."""
    return {queue: QueueState(*state) for queue, *state in session.run(READ_QUEUES)}


_SUMS = ", ".join(f"sum({name})::bigint" for name in COUNTERS)

READ_COUNTERS = Statement(
    "read_counters",
    f"SELECT topic, queue, {_SUMS} FROM sluice.lane_progress GROUP BY topic, queue ORDER BY topic, queue",
)


def read_counters(session: Session) -> dict[tuple[str, str], dict[str, int]]:
    """(topic, queue) → counter → records, over all epochs."""
    return {
        (topic, queue): dict(zip(COUNTERS, counts, strict=True))
        for topic, queue, *counts in session.run(READ_COUNTERS)
    }


def read_progress(session: Session) -> ProgressRead:
    """All of it as of one moment, so that counters and watermarks agree."""
    with session.transaction(f"{ONE_SNAPSHOT} READ ONLY"):
        return ProgressRead(
            topics=frozenset(read_topic_ids(session)),
            watermarks=read_positions(session),
            queues=read_queues(session),
            counters=read_counters(session),
        )
