"""Processes that start while Redis is unreachable wait, stay healthy, and can be stopped."""

import signal
from functools import partial
from pathlib import Path

import pytest

from examples.shop.generate import generate
from sluice.stack import Stack
from sluice.testing.servers.local_run import RunningProcess
from tests.system.conftest import MakeDeployment

EVENTS = 50
WAITING = "waiting for Redis"


def has_logged(process: RunningProcess, words: str) -> bool:
    return words in process.log.read_text()


def has_ended(process: RunningProcess) -> bool:
    return process.exit_code is not None


@pytest.mark.own("redis")
def test_processes_wait_for_redis(make_deployment: MakeDeployment, redis: Stack) -> None:
    deployment = make_deployment()
    redis.stop("redis")
    run = deployment.run
    stopped = [run.start_bridge(name="stopped"), run.start_beat(name="stopped beat")]
    others = [run.start_bridge(), run.start_worker(deployment.queues("payment"))]
    for process in (*stopped, *others):
        deployment.wait_until(
            partial(has_logged, process, WAITING),
            timeout_seconds=60,
            what=f"{process.name} waits",
        )
        deployment.wait_until(
            Path(run.folder / f"{process.name}.alive").exists,
            timeout_seconds=60,
            what=f"{process.name} shows that it lives",
        )
    for process in stopped:
        process.signal(signal.SIGTERM)
        deployment.wait_until(
            partial(has_ended, process),
            timeout_seconds=30,
            what=f"{process.name} ends",
        )
    assert [process.exit_code for process in stopped] == [0, 0]
    assert "consumer opened" not in stopped[0].log.read_text()
    redis.start("redis")
    deployment.produce(generate("payments", count=EVENTS, seed=1))
    deployment.wait_settled()
    assert deployment.complaints(deployment.tables()) == []
