"""A Postgres that is a hundred times slower for minutes loses no event and makes no dead letter."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sluice.testing.servers.deployment import Deployment
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle
from tests.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7_200)]

SLOWER = 100
RUN_SECONDS = 0.005
"""The server's processes run for this time. Then they are suspended for SLOWER - 1 times as long."""
RATE = 20  # Events a second. What the slow server does not apply in time is applied after the slow period.


class SlowedServer:
    """Suspends and continues the processes of one Postgres. They run for 1/SLOWER of the time."""

    def __init__(self, postmaster: int) -> None:
        self._postmaster = postmaster
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.turns = 0

    def __enter__(self) -> "SlowedServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(RUN_SECONDS):
            stopped = self._signal(self._processes(), signal.SIGSTOP)
            self._over.wait(RUN_SECONDS * (SLOWER - 1))
            self._signal(stopped, signal.SIGCONT)
            self.turns += 1

    def _processes(self) -> list[int]:
        children = Path(f"/proc/{self._postmaster}/task/{self._postmaster}/children").read_text()
        return [self._postmaster, *map(int, children.split())]

    def _signal(self, pids: list[int], number: signal.Signals) -> list[int]:
        reached = []
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
            reached.append(pid)
        return reached


@contextmanager
def slowed(deployment: Deployment) -> Iterator[SlowedServer]:
    """Slows the deployment's Postgres until the block ends."""
    with deployment.session.connection.cursor() as cursor:
        cursor.execute("SELECT pg_read_file('postmaster.pid')")
        ((text,),) = cursor.fetchall()
    with SlowedServer(int(text.split()[0])) as server:
        yield server


@pytest.mark.own("postgres")
def test_a_slow_postgres_makes_no_dead_letter(make_deployment: MakeDeployment) -> None:
    minutes = float(os.environ.get("SOAK_MINUTES", "5"))
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.run.start_relay()
    deployment.run.start_beat()
    load = SteadyLoad(deployment, lambda count, first: mixed_events(count, seed=first), rate=RATE)
    with load:
        load.wait_more(5)
        with slowed(deployment) as server:
            until = time.monotonic() + 60 * minutes
            wait_until(lambda: time.monotonic() >= until, timeout_seconds=120 * minutes, what="time passes")
        assert server.turns
    deployment.session.close()
    deployment.wait_settled(timeout_seconds=600)
    with deployment.session.connection.cursor() as cursor:
        cursor.execute("SELECT error_class, error_text FROM sluice.dead_letters WHERE outcome = 'dead'")
        assert cursor.fetchall() == []
    assert_equals_the_oracle(deployment)
    print(f"{load.sent} events, {server.turns} turns of a slow server")
