"""Kills and starts workers for minutes, then checks the logs and the data. The seed of the run is printed."""

import os
import random
import statistics
import time
from collections.abc import Iterator

import pytest

from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle
from tests.system.worker.handovers import Span, handovers, overlap_seconds, read_spans
from tests.system.worker.test_leases import APP, start_workers, things, wait_held

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7_200)]

LEAST, MOST = 3, 6
KILLS, STOPS = 12, 6
RATE = 500  # The number of events a second.


class Crew:
    """Three to six workers. Collects the spans of each ended worker from its log."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._started = 0
        self.working: list[RunningProcess] = []
        self.spans: list[Span] = []
        self.stop_seconds: list[float] = []

    def join(self) -> None:
        self._started += 1
        self.working.append(self._deployment.run.start_worker(name=f"worker-{self._started}"))

    def kill(self, worker: RunningProcess) -> None:
        worker.kill()
        self._account(worker)

    def stop(self, worker: RunningProcess) -> None:
        began = time.monotonic()
        code = worker.stop()
        took = time.monotonic() - began
        # A worker that was stopped during its start has no spans, and may exit with a code other than 0.
        if self._account(worker):
            assert code == 0
            self.stop_seconds.append(took)

    def _account(self, worker: RunningProcess) -> list[Span]:
        self.working.remove(worker)
        spans = read_spans(worker, ended_at=time.time())
        self.spans += spans
        return spans


def changes(rng: random.Random) -> Iterator[str]:
    """Yields kills, stops and joins in random order. There are always LEAST to MOST workers."""
    left = {"kill": KILLS, "stop": STOPS, "join": KILLS + STOPS}
    count = LEAST
    while any(left.values()):
        can = [n for n in left if left[n] and (count < MOST if n == "join" else count > LEAST)]
        chosen = rng.choices(can, [left[name] for name in can])[0]
        left[chosen] -= 1
        count += 1 if chosen == "join" else -1
        yield chosen


def test_the_time_until_eight_queues_are_shared_is_printed(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment(APP)
    *_, last = start_workers(deployment, 4)
    started = time.monotonic()
    deployment.wait_until(
        lambda: "ready." in last.log.read_text(), timeout_seconds=60, what="the last is ready"
    )
    ready = time.monotonic()
    wait_held(deployment, 2, 2, 2, 2)
    shared = time.monotonic()
    assert last.stop() == 0
    wait_held(deployment, 2, 3, 3)
    stopped = time.monotonic()
    deployment.run.processes[0].kill()
    wait_held(deployment, 4, 4)
    killed = time.monotonic()
    print(
        f"last of four workers: ready after {ready - started:.1f} s, queues shared after another"
        f" {shared - ready:.1f} s;"
        f" queues taken over {stopped - shared:.1f} s after a stop, {killed - stopped:.1f} s after kill -9"
    )


def test_events_are_applied_while_workers_are_killed_and_join(make_deployment: MakeDeployment) -> None:
    given = os.environ.get("SOAK_SEED", "random")
    seed = random.randrange(10**6) if given == "random" else int(given)
    minutes = float(os.environ.get("SOAK_MINUTES", "5"))
    print(f"SOAK_SEED={seed}")
    rng = random.Random(seed)
    deployment = make_deployment(APP)
    deployment.run.start_bridge()
    crew = Crew(deployment)
    for _ in range(LEAST):
        crew.join()
    planned = list(changes(rng))
    began = time.monotonic()
    with SteadyLoad(deployment, lambda count, first: things(count, first=first), rate=RATE) as load:
        for number, change in enumerate(planned, start=1):
            due = began + 60 * minutes * number / (len(planned) + 1)
            deployment.wait_until(
                lambda due=due: time.monotonic() >= due,  # type: ignore[misc]
                timeout_seconds=60 * minutes + 60,
                what="the next change is due",
            )
            if change == "join":
                crew.join()
            else:
                getattr(crew, change)(rng.choice(crew.working))
    deployment.wait_settled(timeout_seconds=120)
    for worker in list(crew.working):
        crew.stop(worker)
    gaps = sorted(handover.seconds for handover in handovers(crew.spans))
    print(
        f"{KILLS} kills, {STOPS} stops, {KILLS + STOPS} joins, {load.sent} events in {minutes} min;"
        f" {len(gaps)} hand-overs: median {statistics.median(gaps):.2f} s,"
        f" p95 {gaps[int(0.95 * len(gaps))]:.2f} s, most {gaps[-1]:.2f} s;"
        f" overlap {overlap_seconds(crew.spans):.3f} s; stops took {max(crew.stop_seconds):.2f} s at most"
    )
    assert_equals_the_oracle(deployment)
    assert overlap_seconds(crew.spans) == 0
    assert {span.queue for span in crew.spans} == set(deployment.queues())
