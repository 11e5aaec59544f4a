"""While Redis is full, publishers wait, workers apply the messages that Redis holds, and no process ends."""

import pytest
from redis import Redis

from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness.providers import Providers
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

EVENTS = 2_000
FULL = "Redis is full: "


def waiting(deployment: Deployment) -> int:
    return sum(deployment.redis.llen(queue) for queue in deployment.queues())


def has_logged(process: RunningProcess, words: str) -> bool:
    return words in process.log.read_text()


def start_all(deployment: Deployment, suffix: str = "") -> list[RunningProcess]:
    """Starts all kinds of processes except the bridge."""
    run = deployment.run
    return [
        run.start_worker(name=f"sharing{suffix}"),
        run.start_worker(deployment.queues("payment", "order"), name=f"naming{suffix}"),
        run.start_relay(name=f"relay{suffix}"),
        run.start_effects(name=f"effects{suffix}"),
        run.start_rebuilds(name=f"rebuild{suffix}"),
        run.start_beat(name=f"beat{suffix}"),
    ]


def assert_all_is_done(deployment: Deployment) -> None:
    deployment.wait_settled(timeout_seconds=120)
    deployment.wait_sent(timeout_seconds=120)
    deployment.wait_called(timeout_seconds=120)
    assert_equals_the_oracle(deployment)


@pytest.mark.matrix
@pytest.mark.own("redis")
def test_workers_empty_a_full_redis_and_no_process_ends(
    make_deployment: MakeDeployment, providers: Providers
) -> None:
    deployment = make_deployment(**providers.environ())
    bridge = deployment.run.start_bridge()
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_until(
        lambda: all(deployment.redis.llen(queue) for queue in deployment.queues("payment", "order")),
        timeout_seconds=60,
        what="batches wait in Redis",
    )
    with Redis.from_url(deployment.urls.redis_url) as redis:
        # A limit of 1 byte keeps Redis full even when workers free memory.
        redis.config_set("maxmemory", 1)
        started = [bridge, *start_all(deployment)]
        deployment.wait_until(
            lambda: waiting(deployment) == 0, timeout_seconds=60, what="workers apply the stored messages"
        )
        deployment.produce(mixed_events(EVENTS, seed=2))
        for process in (bridge, started[1], started[-1]):
            deployment.wait_until(
                lambda process=process: has_logged(process, FULL),  # type: ignore[misc]
                timeout_seconds=60,
                what=f"{process.name} reports a full Redis",
            )
        assert sum(deployment.outcomes().values()) > 0
        assert [process.exit_code for process in started] == [None] * len(started)
        redis.config_set("maxmemory", 0)
    assert_all_is_done(deployment)
    assert [process.exit_code for process in started] == [None] * len(started)
    for process in started:
        assert process.log.read_text().count(FULL) <= 3, "more than one line a minute"
        assert "Traceback" not in process.log.read_text()
