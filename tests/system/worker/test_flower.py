"""Flower shows the workers and what they run."""

import json
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from examples.shop.generate import generate
from sluice.stack.patience import patient
from tests.system.conftest import MakeDeployment


@pytest.mark.unforked
def test_flower_lists_the_workers_and_an_apply_task(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deployment.run.start_flower(port)
    deployment.wait_until(
        lambda: _get(port, "/healthcheck") is not None, timeout_seconds=60, what="Flower answers"
    )
    # One of either kind. To the payments' queues only the one without a list listens.
    deployment.run.start_worker(deployment.queues("order"), name="listed")
    deployment.run.start_worker(name="sharing")
    deployment.run.start_bridge()
    deployment.produce(generate("payments", count=200, seed=1))
    deployment.wait_settled()
    deployment.wait_until(
        lambda: (
            _consumed(port)
            == {"listed": set(deployment.queues("order")), "sharing": set(deployment.queues())}
        ),
        timeout_seconds=60,
        what="Flower lists both workers with their queues",
    )
    deployment.wait_until(
        lambda: any(
            task["name"] == "sluice.apply"
            and task["state"] == "SUCCESS"
            and task["worker"].startswith("sharing@")
            for task in (_get(port, "/api/tasks") or {}).values()
        ),
        timeout_seconds=60,
        what="Flower lists an apply task that succeeded",
    )


def _consumed(port: int) -> dict[str, set[str]]:
    workers = _get(port, "/api/workers?refresh=1") or {}
    return {
        name.partition("@")[0]: {queue["name"] for queue in worker.get("active_queues", ())}
        for name, worker in workers.items()
    }


def _get(port: int, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=patient(10)) as answer:
            body = answer.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
    return body.decode() if path == "/healthcheck" else json.loads(body)
