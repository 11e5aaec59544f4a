"""Queues without messages are told to retry what is due, once."""

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sluice.db.connection import Session
from sluice.db.delivery.installation import create_installation
from sluice.db.records import ProcessKind
from sluice.runtime.celery_options import APPLY_TASK
from sluice.runtime.redis_item import Item, read_item
from sluice.runtime.settings import read_settings
from sluice.tasks.installation.joining import join_once
from sluice.tasks.task_messages import READERS, TaskCall
from sluice.worker.worker_metrics import WorkerMetrics
from sluice.worker.worker_process import WorkerProcess
from tests.db.tasks.applying import QUEUE
from tests.db.tasks.setting_aside import ROW, AsideBench, apply_held, held
from tests.db.tasks.setting_aside import bench as bench
from tests.waiting import wait_until


@pytest.fixture
def process(bench: AsideBench, database_url: str, redis_url: str) -> Iterator[WorkerProcess]:
    """What a worker on `maintenance` holds."""
    with closing(Session(database_url, application_name="test")) as session:
        create_installation(session, "sluice")
    settings = read_settings(
        {
            "SLUICE_DATABASE_URL": database_url,
            "SLUICE_REDIS_URL": redis_url,
            "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "nowhere",
        }
    )
    membership = join_once(settings, None, kind=ProcessKind.WORKER, node="test")
    app: Any = SimpleNamespace(sluice_metrics=WorkerMetrics(), sluice_membership=membership)
    made = WorkerProcess(settings, app)
    yield made
    made._sender.redis.delete(QUEUE)
    made.close()
    membership.leave()


def calls(process: WorkerProcess) -> list[TaskCall]:
    """Takes the messages of the queue."""
    found = []
    while item := cast("bytes | None", process._sender.redis.rpop(QUEUE)):
        read = read_item(item)
        assert isinstance(read, Item)
        frame = process._app.sluice_membership.ring.open(read.frame)
        found.append(READERS[frame.version](frame.content))
    return found


def test_an_idle_queue_with_a_due_event_gets_one_message(process: WorkerProcess, bench: AsideBench) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, 5)
        bench.look("UPDATE sluice.retries SET retry_at = now() + interval '1 hour'")
        process._start_retries_now()
        assert calls(process) == []
        bench.look("UPDATE sluice.retries SET retry_at = now()")
        process._start_retries_now()
        # A queue with messages retries behind its next batch.
        process._start_retries_now()
    [(task, arguments)] = calls(process)
    assert task == APPLY_TASK

    def retried() -> bool:
        applied = bench.applier.apply(*arguments)
        return applied is not None and applied.retries["applied"] >= 1

    # The retries before it may have used up their share of the queue's time.
    wait_until(retried, timeout_seconds=10, what="a retry by this message")
    assert bench.sent("k")[0] == 5


def test_without_events_that_are_retried_nothing_is_sent(process: WorkerProcess) -> None:
    process._start_retries_now()
    assert calls(process) == []
