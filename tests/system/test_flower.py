"""Flower shows the workers and what they run."""

import json
import socket
import urllib.error
import urllib.request
from typing import Any

from shop.generate import generate
from tests.system.conftest import MakeDeployment


def test_flower_lists_the_workers_and_an_apply_task(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    deployment.run.start_flower(port)
    deployment.wait_until(
        lambda: _get(port, "/healthcheck") is not None, timeout_seconds=60, what="Flower answers"
    )
    deployment.run.start_worker(deployment.queues())
    deployment.run.start_bridge()
    deployment.produce(generate("payments", count=200, seed=1))
    deployment.wait_settled()
    deployment.wait_until(
        lambda: any(name.startswith("worker@") for name in _get(port, "/api/workers?refresh=1") or {}),
        timeout_seconds=60,
        what="Flower lists the worker",
    )
    deployment.wait_until(
        lambda: any(
            task["name"] == "sluice.apply" and task["state"] == "SUCCESS"
            for task in (_get(port, "/api/tasks") or {}).values()
        ),
        timeout_seconds=60,
        what="Flower lists an apply task that succeeded",
    )


def _get(port: int, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            body = answer.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
    return body.decode() if path == "/healthcheck" else json.loads(body)
