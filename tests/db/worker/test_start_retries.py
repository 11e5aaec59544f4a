"""Each queue with due retries and without messages gets one message."""

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
    """Yields the process object of a worker on queue `maintenance`."""
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
    """Takes all messages from the queue and returns their calls."""
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
        # A queue with messages needs no further message, because its worker retries after the next batch.
        process._start_retries_now()
    [(task, arguments)] = calls(process)
    assert task == APPLY_TASK

    def retried() -> bool:
        applied = bench.applier.apply(*arguments)
        return applied is not None and applied.retries["applied"] >= 1

    # Earlier retries may have used up the share of the time that the worker spends on retries.
    wait_until(retried, timeout_seconds=10, what="the message retries the event")
    assert bench.sent("k")[0] == 5


def test_without_events_to_retry_no_message_is_sent(process: WorkerProcess) -> None:
    process._start_retries_now()
    assert calls(process) == []
