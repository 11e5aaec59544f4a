"""Every key and channel that a deployment uses in Redis begins with the installation's prefix."""

import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.transport import redis as kombu_redis
from redis import Redis

from examples.shop.generate import generate
from sluice.runtime import redis_transport
from sluice.stack.patience import patient
from sluice.testing.servers.deployment import Deployment
from tests.harness.providers import Providers
from tests.system.conftest import MakeDeployment
from tests.system.runtime.redis_monitor import RedisMonitor, find_strays

FLOWER_PAGES = ("/workers", "/tasks", "/broker", "/api/workers?refresh=1", "/api/tasks", "/api/queues/length")
INSPECTED = (
    "ping",
    "stats",
    "active_queues",
    "registered",
    "scheduled",
    "active",
    "reserved",
    "revoked",
    "conf",
)


def run_deployment(deployment: Deployment) -> None:
    """Runs all steps of a deployment: start, load, kill -9 of a worker with a held message, takeover,

    commands of an operator, and stop.
    """
    run = deployment.run
    first = run.start_worker(name="first", faults="apply.begun:1:stop")
    run.start_relay()
    run.start_effects()
    run.start_beat()
    bridge = run.start_bridge()
    deployment.produce(generate("captures", count=200, seed=1))
    deployment.wait_until(
        lambda: is_stopped(first.pid), timeout_seconds=60, what="the worker is stopped in a batch"
    )
    assert deployment.redis.hlen("unacked") > 0
    first.kill()
    bridge.kill()
    run.start_bridge(name="next bridge")
    run.start_worker(name="second")
    run.start_worker(name="third")
    deployment.produce(generate("captures", count=200, seed=2))
    deployment.wait_settled(timeout_seconds=120)
    deployment.wait_until(
        lambda: deployment.redis.hlen("unacked") == 0,
        timeout_seconds=60,
        what="the message of the killed worker is restored",
    )
    deployment.wait_sent()
    deployment.wait_called()
    run_operator_tools(deployment)
    run.stop_all()
    assert {process.name: process.exit_code for process in run.processes if process.exit_code} == {
        "first": -signal.SIGKILL,
        "bridge": -signal.SIGKILL,
    }


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def run_operator_tools(deployment: Deployment) -> None:
    """Runs the operator's tools: Flower, `celery inspect` and commands of Sluice."""
    run = deployment.run
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run.start_flower(port)
    inspections = [run.start_celery("inspect", command) for command in INSPECTED]
    deployment.wait_until(
        lambda: all(answers(port, page) for page in FLOWER_PAGES),
        timeout_seconds=60,
        what="Flower shows its pages",
    )
    deployment.wait_until(
        lambda: all(one.exit_code is not None for one in inspections),
        timeout_seconds=60,
        what="the commands end",
    )
    for one in inspections:
        assert one.exit_code == 0, one.tail()
        assert "third@" in one.log.read_text()
    for words in (("status",), ("doctor",), ("workers",)):
        assert run.sluice(*words).returncode in (0, 1), words


def answers(port: int, page: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=patient(10)) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.mark.matrix
@pytest.mark.unforked
@pytest.mark.own("redis")
def test_every_key_begins_with_the_prefix(
    make_deployment: MakeDeployment, redis_url: str, providers: Providers
) -> None:
    deployment = make_deployment(SLUICE_VISIBILITY_TIMEOUT_SECONDS="5", **providers.environ())
    prefix = deployment.installation.redis_prefix
    with Redis.from_url(redis_url) as raw:
        with RedisMonitor(redis_url) as monitor:
            run_deployment(deployment)
        deployment.close()
        names = {one.words[0].decode().upper() for one in monitor.executed}
        strays = find_strays(raw, monitor.executed, prefix)
        left = {key for key in set(raw.keys()) if not key.startswith(prefix.encode())}
    # If the monitor has not read these commands, the deployment has not done enough.
    assert names >= {
        "BRPOP",
        "LPUSH",
        "PSUBSCRIBE",
        "PUBLISH",
        "ZADD",
        "ZREVRANGE",
        "HGET",
    }
    assert any(one.source == "lua" for one in monitor.executed)
    assert strays == set()
    assert left == set()


@pytest.mark.own("redis")
@pytest.mark.parametrize("transport", [redis_transport.Transport, kombu_redis.Transport])
def test_kombu_sends_some_keys_without_the_prefix_but_the_transport_of_sluice_sends_none(
    redis_url: str, transport: Any
) -> None:
    options = {"global_keyprefix": "shop-0123abcd:", "visibility_timeout": 0, "redis_url": redis_url}
    connect: Any = Connection
    with Redis.from_url(redis_url) as raw:
        with (
            RedisMonitor(redis_url) as monitor,
            connect(redis_url, transport=transport, transport_options=options) as connection,
        ):
            queue = connection.SimpleQueue("q")
            queue.put("message")
            connection.default_channel.qos.restore_visible(interval=1)
            with connection.default_channel.conn_or_acquire() as client:
                client.exists("q")
                client.lrange("q", 0, -1)
            connection.close()
        strays = find_strays(raw, monitor.executed, "shop-0123abcd:")
    assert {command for command, _ in strays} == (
        set() if transport is redis_transport.Transport else {"EXISTS", "LRANGE"}
    )
