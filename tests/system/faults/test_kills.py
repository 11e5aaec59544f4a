"""After kill -9, SIGSTOP and restarts of Sluice's processes, the results equal those of the oracle."""

import random
import signal
from collections.abc import Callable
from itertools import count, takewhile

import pytest

from sluice.testing.servers.deployment import Deployment
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

EVENTS = 4_000


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("apply.begun:2", marks=pytest.mark.matrix),
        pytest.param("apply.before_commit:2", marks=pytest.mark.matrix),
        "apply.committed:2",
    ],
)
def test_a_worker_killed_at_any_point_loses_nothing(make_deployment: MakeDeployment, point: str) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    doomed = deployment.run.start_worker(deployment.queues(), faults=f"{point}:kill")
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_until(lambda: doomed.exit_code == -9, timeout_seconds=60, what=f"killed at {point}")
    deployment.run.start_worker(deployment.queues())
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("bridge.half_published:2", marks=pytest.mark.matrix),
        "bridge.published:3",
        pytest.param("bridge.before_progress:3", marks=pytest.mark.matrix),
    ],
)
def test_a_bridge_killed_at_any_point_loses_nothing(make_deployment: MakeDeployment, point: str) -> None:
    deployment = make_deployment()
    doomed = deployment.run.start_bridge(faults=f"{point}:kill")
    deployment.run.start_worker(deployment.queues())
    deployment.produce(mixed_events(EVENTS, seed=2))
    deployment.wait_until(lambda: doomed.exit_code == -9, timeout_seconds=60, what=f"killed at {point}")
    deployment.run.start_bridge()
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


@pytest.mark.matrix
def test_a_worker_that_is_suspended_longer_than_the_visibility_timeout_changes_no_result(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(SLUICE_VISIBILITY_TIMEOUT_SECONDS="5")
    deployment.run.start_bridge()
    # The worker is suspended in its transaction. It holds the lock of the queue until Postgres ends its
    # session.
    asleep = deployment.run.start_worker(
        deployment.queues(), name="asleep", faults="apply.before_commit:3:stop"
    )
    deployment.produce(mixed_events(EVENTS, seed=3))
    deployment.wait_until(
        lambda: _is_stopped(asleep.pid), timeout_seconds=60, what="the worker stops at its fault point"
    )
    deployment.run.start_worker(deployment.queues(), name="awake")
    deployment.wait_settled(timeout_seconds=120)
    asleep.signal(signal.SIGCONT)
    deployment.produce(mixed_events(EVENTS, seed=4))
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


@pytest.mark.matrix
def test_two_bridges_killed_in_turns_under_load_lose_nothing(make_deployment: MakeDeployment) -> None:
    kill_bridges_in_turns(make_deployment(), seed=5, keep_on=lambda turn: turn < 4)


def test_a_worker_that_is_stopped_finishes_its_batch_and_exits_with_0(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment()
    bridge = deployment.run.start_bridge()
    worker = deployment.run.start_worker(deployment.queues())
    deployment.produce(mixed_events(EVENTS, seed=6))
    deployment.wait_until(
        lambda: sum(deployment.outcomes().values()) > 0, timeout_seconds=60, what="events are applied"
    )
    assert worker.stop() == 0
    assert bridge.stop() == 0
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


def kill_bridges_in_turns(deployment: Deployment, *, seed: int, keep_on: Callable[[int], bool]) -> None:
    """Repeatedly kills and restarts one of two bridges while events arrive."""
    rng = random.Random(seed)
    bridges = [deployment.run.start_bridge(name=f"bridge-{n}") for n in (0, 1)]
    deployment.run.start_worker(deployment.queues("payment", "balance"), name="worker-a")
    deployment.run.start_worker(deployment.queues("stock", "order", "user"), name="worker-b")
    for turn in takewhile(keep_on, count()):
        # Reads the count before producing, because all events may be applied before `produce` returns.
        before = sum(deployment.outcomes().values())
        deployment.produce(mixed_events(2_000, seed=seed * 1_000 + turn))
        victim = rng.randrange(2)
        deployment.wait_until(
            lambda before=before: sum(deployment.outcomes().values()) > before,  # type: ignore[misc]
            timeout_seconds=60,
            what=f"events are applied in turn {turn} of seed {seed}",
        )
        bridges[victim].kill()
        bridges[victim] = deployment.run.start_bridge(name=f"bridge-{victim}")
    deployment.wait_settled(timeout_seconds=120)
    assert_equals_the_oracle(deployment)


def _is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] == "T"
