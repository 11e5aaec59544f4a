"""All processes wait while Redis refuses every write, even BRPOP. They continue when Redis accepts writes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from sluice.stack import Stack
from tests.harness.providers import Providers
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.test_full_redis import assert_all_is_done, has_logged, start_all
from tests.waiting import wait_until

pytestmark = pytest.mark.matrix

EVENTS = 1_000


def lack_replicas(redis: Redis, _: Path) -> Callable[[], object]:
    redis.config_set("min-replicas-to-write", 1)
    return lambda: redis.config_set("min-replicas-to-write", 0)


def become_a_replica(redis: Redis, _: Path) -> Callable[[], object]:
    redis.slaveof("127.0.0.1", 1)
    return redis.slaveof


def fail_to_save(redis: Redis, data: Path) -> Callable[[], object]:
    """Makes the snapshot of Redis fail. After that, Redis refuses writes, and even PING."""
    snapshot = data / str(redis.config_get("dbfilename")["dbfilename"])
    snapshot.unlink(missing_ok=True)
    snapshot.mkdir()
    redis.config_set("save", "3600 1000000")
    redis.bgsave()
    wait_until(
        lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err",
        timeout_seconds=30,
        what="the snapshot fails",
    )
    return lambda: redis.config_set("save", "")


@pytest.mark.own("redis")
@pytest.mark.parametrize("refuse", [lack_replicas, become_a_replica, fail_to_save])
def test_processes_wait_while_redis_refuses_writes(
    make_deployment: MakeDeployment,
    own_stack: Stack,
    providers: Providers,
    refuse: Callable[[Redis, Path], Callable[[], object]],
) -> None:
    deployment = make_deployment(**providers.environ())
    bridge = deployment.run.start_bridge()
    before = start_all(deployment)
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_until(
        lambda: sum(deployment.outcomes().values()) > 0, timeout_seconds=60, what="events are applied"
    )
    with Redis.from_url(deployment.urls.redis_url) as redis:
        allow = refuse(redis, own_stack.data_dir("redis"))
        started = [bridge, *before, *start_all(deployment, "-late")]
        deployment.produce(mixed_events(EVENTS, seed=2))
        for process in (bridge, before[0], before[1], before[-1]):
            deployment.wait_until(
                lambda process=process: has_logged(process, "Redis refuses a command: "),  # type: ignore[misc]
                timeout_seconds=60,
                what=f"{process.name} reports the refusal",
            )
        assert [process.exit_code for process in started] == [None] * len(started)
        allow()
    assert_all_is_done(deployment)
    assert [process.exit_code for process in started] == [None] * len(started)
