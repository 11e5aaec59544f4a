"""The relay and a purge run long, but delay no other task of their worker."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from sluice.db.admin.totals import read_call_states
from sluice.db.connection import Session
from sluice.runtime.settings import read_settings
from sluice.worker import worker_process
from sluice.worker.relay_loop import RelayLoop
from sluice.worker.worker_metrics import WorkerMetrics
from sluice.worker.worker_process import WorkerProcess
from tests.db.admin.leaving import insert_call
from tests.waiting import wait_until


@pytest.fixture
def process(database_url: str) -> Iterator[WorkerProcess]:
    """Yields the process object of a worker on queues `relay` and `maintenance`."""
    environ = {
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": "redis://nowhere",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "nowhere",
        "SLUICE_HANDLERS": "examples.shop.handlers",
    }
    app: Any = SimpleNamespace(sluice_metrics=WorkerMetrics())
    made = WorkerProcess(read_settings(environ), app)
    made.__dict__["_wakeup"] = None  # The process has no Redis.
    yield made
    made.close()


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch, process: WorkerProcess) -> Iterator[Callable[[object, str], None]]:
    """Yields a function that replaces a method by one that waits until the end of the test."""
    over = threading.Event()
    yield lambda owner, name: monkeypatch.setattr(owner, name, lambda *_, **__: over.wait())
    over.set()


def test_a_waiting_relay_does_not_delay_maintenance(
    process: WorkerProcess, hold: Callable[[object, str], None], database_url: str
) -> None:
    hold(RelayLoop, "run")
    process.relay()
    with closing(Session(database_url, application_name="test")) as session:
        insert_call(
            session, "capture_payment:1", "running", effect="capture_payment", claimed_until="2020-01-01"
        )
        process.expire_claims()
        wait_until(
            lambda: {state for _, state, _ in read_call_states(session)} == {"pending"},
            timeout_seconds=10,
            what="the claim expires",
        )


def test_a_waiting_purge_does_not_delay_other_tasks(
    process: WorkerProcess, hold: Callable[[object, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: set[str] = set()
    hold(worker_process, "read_topic_configs")
    monkeypatch.setattr(RelayLoop, "run", lambda _: ran.add("relay"))
    monkeypatch.setattr(worker_process, "read_lagging", lambda _: ran.add("rebuilds"))
    process.purge()
    process.relay()
    process.start_rebuilds()
    wait_until(
        lambda: ran == {"relay", "rebuilds"}, timeout_seconds=10, what="the relay and the rebuilds run"
    )
