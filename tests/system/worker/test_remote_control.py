"""Workers answer queries that any client of Redis can broadcast. No broadcast changes a worker."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import pytest
from celery import Celery
from redis import Redis
from sqlalchemy.engine import make_url

from examples.shop.generate import generate
from sluice.db.delivery.installation import read_keys
from sluice.runtime.celery_options import make_celery
from sluice.runtime.fanout import EVENT_EXCHANGE
from sluice.runtime.refusals import LOG_INTERVAL_SECONDS
from sluice.runtime.settings import read_settings
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from sluice.worker.remote_control import ANSWERS, SHOWN_SETTINGS
from tests.system.conftest import MakeDeployment
from tests.unit.runtime.test_fanout import CONTROL, DROPPED, NO_EVENTS, packed
from tests.unit.worker.test_remote_control import MALFORMED

SECRET = "hunter2-in-the-address"
MARK = "payload-of-a-stranger"

REFUSED: dict[str, dict[str, Any]] = {
    "shutdown": {"msg": MARK},
    "cancel_consumer": {"queue": "relay"},
    "add_consumer": {"queue": MARK, "exchange": "sluice", "routing_key": "order.0"},
    "revoke": {"task_id": ["1", "2"], "terminate": True, "signal": "KILL"},
    "revoke_by_stamped_headers": {"headers": {"a": "b"}, "terminate": True},
    "terminate": {"signal": "KILL", "task_id": "1"},
    "rate_limit": {"task_name": "sluice.apply", "rate_limit": "1/h"},
    "time_limit": {"task_name": "sluice.apply", "soft": 0.001, "hard": 0.001},
    "pool_restart": {"modules": ["os"], "reload": True},
    "pool_grow": {"n": 100},
    "pool_shrink": {"n": 100},
    "autoscale": {"max": 0, "min": 0},
    "disable_events": {},
    "election": {"id": "1", "topic": "task", "action": {}},
    "report": {},
    "query_task": {"ids": ["1"]},
    "objgraph": {"num": 1_000_000},
    "memdump": {},
    "memsample": {},
    "dump_conf": {"with_defaults": True},
    "__class__": {},
    "": {},
}


@pytest.fixture
def deployment(make_deployment: MakeDeployment) -> Deployment:
    """Returns a deployment with a bridge, a worker, a relay, an effects worker and a beat."""
    made = make_deployment()
    made.run.start_worker(name="sharing")
    made.run.start_relay()
    made.run.start_effects()
    made.run.start_beat()
    made.run.start_bridge()
    return made


@pytest.fixture
def app(deployment: Deployment) -> Iterator[Celery]:
    """Yields a Celery application, as Flower and `celery inspect` use it."""
    settings = read_settings(deployment.run.environ())
    with make_celery(settings, lambda: deployment.installation) as made:
        yield made


def works(deployment: Deployment, seed: int) -> None:
    """Waits until events are applied and the relay has sent their outgoing events."""
    deployment.produce(generate("orders", count=100, seed=seed))
    deployment.wait_settled()
    deployment.wait_sent()


def state(app: Celery, deployment: Deployment) -> dict[str, Any]:
    """Returns, for all three workers, the properties that a remote command could change."""
    found: dict[str, Any] = {}

    def all_answer() -> bool:
        inspect = app.control.inspect(timeout=2)
        queues, stats = inspect.active_queues() or {}, inspect.stats() or {}
        for name in set(queues) & set(stats):
            found[name] = (
                sorted(queue["name"] for queue in queues[name]),
                stats[name]["pid"],
                stats[name]["pool"].get("processes"),
                stats[name]["prefetch_count"],
            )
        return len(found) == 3 and len(found[sharing(found)][0]) == len(deployment.queues())

    deployment.wait_until(all_answer, timeout_seconds=60, what=f"the workers answer: {found}")
    return found


def sharing(found: dict[str, Any]) -> str:
    return next(name for name in found if name.startswith("sharing@"))


def lines(process: RunningProcess, event: str) -> list[dict[str, Any]]:
    """Returns the log lines with this event."""
    return [json.loads(line) for line in process.log.read_text().splitlines() if f'"{event}"' in line]


def publish(deployment: Deployment, raw: Any, exchange: str, data: bytes) -> None:
    """Publishes data to an exchange, as any client of this Redis can."""
    number = make_url(deployment.urls.redis_url).database
    topic = f"/{number}.{exchange}" if exchange == CONTROL else f"/{number}.{exchange}/worker.heartbeat"
    raw.publish(deployment.installation.redis_prefix + topic, data)


@pytest.mark.matrix
def test_no_broadcast_changes_a_worker(deployment: Deployment, app: Celery) -> None:
    works(deployment, seed=1)
    with Redis.from_url(deployment.urls.redis_url) as raw:
        theirs = [client["id"] for client in raw.client_list(_type="normal")]
    before = state(app, deployment)
    began = time.monotonic()
    for command, arguments in REFUSED.items():
        answers = app.control.broadcast(command, arguments, reply=True, timeout=10, limit=3)
        assert len(answers) == 3, command
        for answer in answers:
            assert all("Sluice refuses" in reply["error"] for reply in answer.values()), answer
    with Redis.from_url(deployment.urls.redis_url) as raw:
        for body in MALFORMED.values():
            publish(deployment, raw, CONTROL, packed(body))
        for data, _ in DROPPED.values():
            publish(deployment, raw, CONTROL, data)
            publish(deployment, raw, EVENT_EXCHANGE, data)
        for event in NO_EVENTS.values():
            publish(deployment, raw, EVENT_EXCHANGE, packed(event))
        publish(deployment, raw, CONTROL, packed({"method": MARK + "x" * 1000, "arguments": {MARK: 1}}))
        publish(deployment, raw, CONTROL, packed(headers={"clock": [MARK]}))
        publish(deployment, raw, CONTROL, packed(headers={"clock": 2**60}))
        # Cuts the workers' connections. Their answers must be the same after they have reconnected.
        for client in theirs:
            raw.client_kill_filter(_id=client)
    works(deployment, seed=2)
    assert state(app, deployment) == before
    minutes = int((time.monotonic() - began) / LOG_INTERVAL_SECONDS) + 1
    for process in deployment.run.processes:
        assert process.exit_code is None, process.tail()
        log = process.log.read_text()
        # Workers log only the names of broadcast commands, and do not run Celery's mingle step at start.
        assert not [word for word in ("Traceback", MARK + "x" * 100, "mingle") if word in log]
        if process.name in ("sharing", "relay", "effects"):
            refused = lines(process, "remote control commands refused")
            assert refused[0]["commands"] == {"shutdown": 1}
            assert len(refused) <= minutes + 1
            assert 1 <= len(lines(process, "broadcast messages dropped")) <= minutes + 1


@pytest.mark.own("redis")
def test_no_answer_shows_a_password_or_a_key(make_deployment: MakeDeployment, redis_url: str) -> None:
    made = make_deployment()
    with Redis.from_url(redis_url) as raw:
        raw.execute_command("ACL", "SETUSER", "keeper", "on", f">{SECRET}", "~*", "&*", "+@all")
    secret = {
        "SLUICE_REDIS_URL": redis_url.replace("//", f"//keeper:{SECRET}@"),
        # This Postgres accepts any password.
        "SLUICE_DATABASE_URL": make_url(made.urls.database_url)
        .set(password=SECRET)
        .render_as_string(hide_password=False),
    }
    made.run.environment = secret
    worker = made.run.start_worker(name="sharing")
    with make_celery(read_settings(made.run.environ()), lambda: made.installation) as app:
        made.wait_until(
            lambda: bool(app.control.inspect(timeout=2).ping()), timeout_seconds=60, what="the worker answers"
        )
        answers = {
            name: app.control.broadcast(name, arguments, reply=True, timeout=10, limit=1)
            for name in sorted(ANSWERS)
            for arguments in ({"with_defaults": True, "taskinfoitems": ["app", "__class__", "_app"]},)
        }
        assert answers["hello"][0] == {f"sharing@{socket.gethostname()}": {"revoked": [], "clock": ANY}}
        app.control.broadcast(
            "hello", {"from_node": "x", "revoked": {"a task": 1.0}}, reply=True, timeout=10, limit=1
        )
        assert list((app.control.inspect(timeout=10).revoked() or {}).values()) == [[]]
    said = json.dumps(answers)
    conf = next(iter(answers["conf"][0].values()))
    assert set(conf) == set(SHOWN_SETTINGS)
    assert conf["task_acks_late"] is True
    (key, *_) = read_keys(made.session)
    for hidden in (SECRET, key.key.hex(), base64.b64encode(key.key).decode(), "://", "keeper"):
        assert hidden not in said
    assert SECRET not in worker.log.read_text()


@pytest.mark.matrix
@pytest.mark.own("redis")
def test_many_malformed_broadcasts_do_not_block_events(deployment: Deployment, app: Celery) -> None:
    works(deployment, seed=1)
    before = state(app, deployment)
    with Redis.from_url(deployment.urls.redis_url) as raw:
        cases = [data for data, _ in DROPPED.values() if len(data) < 5_000]
        for round_ in range(200):
            for data in cases:
                publish(deployment, raw, CONTROL, data)
            if round_ == 100:
                deployment.produce(generate("orders", count=100, seed=2))
    deployment.wait_settled()
    assert state(app, deployment) == before
    for process in deployment.run.processes:
        assert process.exit_code is None
        assert process.log.stat().st_size < 1_000_000
