"""Flower shows the workers and their tasks, and cannot change them."""

import json
import os
import signal
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from psycopg2.errors import InsufficientPrivilege
from redis import Redis
from sqlalchemy.engine import make_url

from examples.shop.generate import generate
from sluice.db.connection import Session
from sluice.db.delivery.installation import read_keys
from sluice.stack.patience import patient
from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment
from tests.unit.runtime.test_fanout import NO_EVENTS, packed


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
    # One worker has a list of queues, the other worker has no list and serves all queues. So only the worker
    # without a list applies payments.
    deployment.run.start_worker(deployment.queues("order"), name="listed")
    deployment.run.start_worker(name="sharing")
    deployment.run.start_bridge()
    deployment.produce(generate("payments", count=200, seed=1))
    deployment.wait_settled()
    deployment.wait_until(
        lambda: (
            consumed(port) == {"listed": set(deployment.queues("order")), "sharing": set(deployment.queues())}
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


# The path and the form fields of each button. `{}` stands for the name of the worker.
BUTTONS = {
    "restart pool": ("/api/worker/pool/restart/{}", {}),
    "grow pool": ("/api/worker/pool/grow/{}", {"n": "3"}),
    "shrink pool": ("/api/worker/pool/shrink/{}", {"n": "1"}),
    "autoscale": ("/api/worker/pool/autoscale/{}", {"min": "0", "max": "1"}),
    "add consumer": ("/api/worker/queue/add-consumer/{}", {"queue": "other"}),
    "cancel consumer": ("/api/worker/queue/cancel-consumer/{}", {"queue": "order.0"}),
    "time limit": ("/api/task/timeout/sluice.apply", {"workername": "{}", "hard": "0.1", "soft": "0.1"}),
    "rate limit": ("/api/task/rate-limit/sluice.apply", {"workername": "{}", "ratelimit": "1/h"}),
}
WITHOUT_ANSWER = {
    "shut down": ("/api/worker/shutdown/{}", {}),
    "revoke": ("/api/task/revoke/some-id", {}),
    "terminate": ("/api/task/revoke/some-id", {"terminate": "true", "signal": "SIGKILL"}),
}
"""Flower does not wait for the answers to these commands."""


@pytest.mark.matrix
@pytest.mark.unforked
def test_flower_needs_no_right_to_read_keys_and_its_buttons_change_nothing(
    make_deployment: MakeDeployment, reader: Callable[[Deployment], str]
) -> None:
    deployment = make_deployment()
    run = deployment.run
    worker = run.start_worker(name="sharing")
    run.start_bridge()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = reader(deployment)
    with pytest.raises(InsufficientPrivilege), closing(Session(url, application_name="test")) as session:
        read_keys(session)
    flower = run.start_flower(port, environ={"SLUICE_DATABASE_URL": url})
    queues = set(deployment.queues())
    deployment.wait_until(
        lambda: consumed(port) == {"sharing": queues}, timeout_seconds=60, what="Flower lists the worker"
    )
    name = next(iter(_get(port, "/api/workers")))

    # Suspends the worker, so that messages wait.
    worker.signal(signal.SIGSTOP)
    deployment.produce(generate("payments", count=200, seed=1))
    deployment.wait_until(
        lambda: any(queue["messages"] for queue in _get(port, "/api/queues/length")["active_queues"]),
        timeout_seconds=60,
        what="Flower shows how many messages wait",
    )
    worker.signal(signal.SIGCONT)
    deployment.wait_settled()

    with Redis.from_url(deployment.urls.redis_url) as raw:
        number = make_url(deployment.urls.redis_url).database
        for event in [*NO_EVENTS.values(), 5, None]:
            topic = f"{deployment.installation.redis_prefix}/{number}.celeryev/worker.heartbeat"
            assert raw.publish(topic, packed(event)) == 1  # Only Flower receives the event.
    for path, form in BUTTONS.values():
        filled = {field: value.format(name) for field, value in form.items()}
        code, said = _post(port, path.format(name), filled)
        assert (code, "Sluice refuses this command" in said) == (403, True), (path, said)
    for path, form in WITHOUT_ANSWER.values():
        assert _post(port, path.format(name), form)[0] == 200

    deployment.produce(generate("payments", count=200, seed=2))
    deployment.wait_settled()
    deployment.wait_until(
        lambda: consumed(port) == {"sharing": queues}, timeout_seconds=60, what="Flower lists the worker"
    )
    for page in ("/workers", f"/worker/{name}", "/tasks", "/broker"):
        assert _status(port, page) == 200, page
    assert (worker.exit_code, flower.exit_code) == (None, None)
    assert "Failed to capture events" not in flower.log.read_text()


@pytest.fixture
def reader() -> Iterator[Callable[[Deployment], str]]:
    """Yields a function that creates a role without special rights and returns a URL with this role."""
    made: list[tuple[str, str]] = []

    def make(deployment: Deployment) -> str:
        role = f"reader_{os.getpid()}"
        deployment.session.command(f"CREATE ROLE {role} LOGIN")
        url = make_url(deployment.urls.database_url)
        made.append((deployment.urls.database_url, role))
        return url.set(username=role).render_as_string(hide_password=False)

    yield make
    for url, role in made:
        with closing(Session(url, application_name="test")) as session:
            session.command(f"DROP ROLE {role}")


def _post(port: int, path: str, form: dict[str, str]) -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=urllib.parse.urlencode(form).encode(), method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=patient(30)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _status(port: int, path: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=patient(30)) as answer:
        return int(answer.status)


def consumed(port: int) -> dict[str, set[str]]:
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
