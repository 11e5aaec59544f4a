"""Redis moves under load, by a failover of Sentinel or to another address. Nothing is lost.

Redis copies data to a replica asynchronously, so a failover loses the newest messages. They are sent
again.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.runtime.redis_pool import open_client
from tests.harness.providers import Providers
from tests.harness.redis_servers import RedisServers, redis_servers
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.test_full_redis import assert_all_is_done, start_all
from tests.waiting import wait_until

pytestmark = pytest.mark.matrix

EVENTS = 2_000
PASSWORD = "p@ss"
LOGIN = ("--requirepass", PASSWORD, "--masterauth", PASSWORD, "--maxmemory-policy", "noeviction")
SENTINEL = f"""\
sentinel monitor main 127.0.0.1 {{port}} 2
sentinel auth-pass main {PASSWORD}
sentinel down-after-milliseconds main 1000
sentinel failover-timeout main 5000
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisServers]:
    with redis_servers(tmp_path / "redis") as made:
        yield made


@pytest.fixture
def master(servers: RedisServers) -> int:
    return servers.start(*LOGIN)


@pytest.fixture
def redis_url(servers: RedisServers, master: int) -> str:
    """Replaces the fixture of that name: deployments use three Sentinels, a master and a replica."""
    replica = servers.start(*LOGIN, "--replicaof", f"127.0.0.1 {master}")
    ports = [servers.start_sentinel(SENTINEL.format(port=master)) for _ in range(3)]
    with open_client(f"redis://:{PASSWORD}@127.0.0.1:{replica}") as client:
        wait_until(
            lambda: client.info("replication")["master_link_status"] == "up",
            timeout_seconds=30,
            what="the replica has copied the master",
        )
    for port in ports:
        with open_client(f"redis://127.0.0.1:{port}") as sentinel:
            wait_until(
                lambda sentinel=sentinel: (  # type: ignore[misc]
                    sentinel.sentinel_master("main")["num-other-sentinels"] == 2
                    and sentinel.sentinel_master("main")["num-slaves"] == 1
                ),
                timeout_seconds=60,
                what="the Sentinels know each other and the replica",
            )
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"sentinel://:{PASSWORD}@{hosts}/main/0"


def test_a_failover_under_load_loses_nothing(
    make_deployment: MakeDeployment, providers: Providers, servers: RedisServers, master: int
) -> None:
    deployment = make_deployment(**providers.environ())
    processes = [deployment.run.start_bridge(), *start_all(deployment)]
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_until(
        lambda: sum(deployment.outcomes().values()) > 0, timeout_seconds=60, what="events are applied"
    )
    servers.kill(master)
    deployment.produce(mixed_events(EVENTS, seed=2))
    assert_all_is_done(deployment)
    assert [process.exit_code for process in processes] == [None] * len(processes)
    assert all("Traceback" not in process.log.read_text() for process in processes)


def test_another_address_is_used_after_a_restart(
    make_deployment: MakeDeployment, providers: Providers, servers: RedisServers
) -> None:
    deployment = make_deployment(**providers.environ())
    processes = [deployment.run.start_bridge(), *start_all(deployment)]
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_until(
        lambda: sum(deployment.outcomes().values()) > 0, timeout_seconds=60, what="events are applied"
    )
    for process in processes:
        process.stop()
    port = servers.start("--maxmemory-policy", "noeviction")
    deployment.run.environment = {
        **deployment.run.environment,
        "SLUICE_REDIS_URL": f"redis://127.0.0.1:{port}/0",
    }
    deployment.run.start_bridge(name="bridge-2")
    start_all(deployment, "-2")
    deployment.produce(mixed_events(EVENTS, seed=2))
    assert_all_is_done(deployment)
