"""Fixtures for accept and reshard: topics, an entity type, and a batch that holds the lock of a queue."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from sluice.db.admin.audit import Decision
from sluice.db.connection import Session
from sluice.stack.patience import patient
from tests.db.tasks.applying import TOPIC, Bench, create_tables, registry
from tests.waiting import WAITING_BACKENDS, wait_until

DECISION = Decision("operator", "accept", "why")
OTHER = "other-things"


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    """Yields a test bench with two topics of entity type `thing` and one topic of another entity type."""
    create_tables(database_url)
    topics = {TOPIC: replace(registry().topics[TOPIC], ignores=("thing.viewed",))}
    bench = Bench(database_url, replace(registry(), topics=topics))
    bench.look(f"""
        INSERT INTO sluice.entities (entity, shards) VALUES ('alien', 1);
        INSERT INTO sluice.queues (queue, entity) VALUES ('alien.0', 'alien');
        INSERT INTO sluice.topics VALUES ('{OTHER}', 'id-2', 'thing'), ('aliens', 'id-3', 'alien');
        INSERT INTO sluice.partition_watermarks (topic, partition, epoch, watermark) VALUES
            ('{TOPIC}', 0, 1, 0), ('{TOPIC}', 7, 1, 3), ('{OTHER}', 0, 1, 4), ('aliens', 0, 1, 5);
        INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset, applied)
        VALUES ('{OTHER}', 0, 'thing.0', 1, 3, 4)""")
    yield bench
    bench.close()


def lanes(bench: Bench, epoch: int) -> list[tuple[Any, ...]]:
    return bench.look(
        "SELECT topic, partition, queue, applied_offset, applied FROM sluice.lane_offsets"
        f" WHERE epoch = {epoch} ORDER BY 1, 2, 3"
    )


@contextmanager
def during_batch(bench: Bench, database_url: str, work: str, action: Callable[[], object]) -> Iterator[None]:
    """Starts `action` while a batch has locked the queue. The batch then runs the SQL `work` and commits."""
    holder = Session(database_url, application_name="a batch")
    holder.command("BEGIN; SELECT FROM sluice.queues WHERE queue = 'thing.0' FOR UPDATE")
    waiting = threading.Thread(target=action)
    waiting.start()
    wait_until(lambda: bench.look(WAITING_BACKENDS), timeout_seconds=5, what="the action waits for the batch")
    holder.command(f"{work}; COMMIT")
    holder.close()
    waiting.join(patient(30))
    yield
