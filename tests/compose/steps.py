"""The steps of the tests of the compose file, and the passwords of their projects."""

import string
import time
from collections.abc import Callable
from pathlib import Path

from sluice.runtime.kafka_access import KafkaSecurity
from sluice.runtime.secret_files import with_password
from sluice.runtime.service_urls import StackUrls
from sluice.stack.ports import LOOPBACK
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from tests.compose.project import PASSWORD_NAMES, ComposeProject
from tests.waiting import wait_until

PORT_NAMES = ("KAFKA_PORT", "POSTGRES_PORT", "REDIS_PORT", "FLOWER_PORT")
PASSWORD = string.digits + string.ascii_letters + string.punctuation + " "
FLOWER_PASSWORD = PASSWORD.replace(",", "")
LOGIN_TO_KAFKA = {
    "kafka_security_protocol": "SASL_PLAINTEXT",
    "kafka_sasl_mechanism": "PLAIN",
    "kafka_username": "sluice",
    "kafka_password": PASSWORD,
}
HANDLERS = "examples.shop.handlers"

HEALTHY_SECONDS = 180.0  # Kafka may recover its logs, and all processes start at the same time
LOOK_SECONDS = 1.0  # pause between two checks of the containers, because each check starts a program
APPLIED_SECONDS = 120.0


def write_env_file(file: Path) -> None:
    """Writes the passwords as docs/installing.md describes."""
    passwords = dict.fromkeys(PASSWORD_NAMES, PASSWORD) | {"FLOWER_PASSWORD": FLOWER_PASSWORD}
    lines = (f"{name}='{quoted(password)}'\n" for name, password in passwords.items())
    file.write_text("".join(lines))


def quoted(password: str) -> str:
    """Returns the password as it stands between single quotes."""
    return password.replace("'", r"\'")


def timed(what: str, act: Callable[[], None]) -> None:
    """Calls `act` and prints its duration."""
    begin = time.monotonic()
    act()
    say(what, time.monotonic() - begin)


def say(what: str, seconds: float) -> None:
    """Prints a line of the report."""
    print(f"{seconds:6.1f} s  {what}", flush=True)


def deployment_of(project: ComposeProject, folder: Path, handlers: str = HANDLERS) -> Deployment:
    """Returns a deployment that reaches the containers through their published ports."""
    port = {name: f"{LOOPBACK}:{project.environment[name]}" for name in PORT_NAMES}
    urls = StackUrls(
        database_url=with_password(f"postgresql+psycopg2://app@{port['POSTGRES_PORT']}/sluice", PASSWORD),
        redis_url=with_password(f"redis://{port['REDIS_PORT']}/0", PASSWORD),
        kafka_bootstrap_servers=port["KAFKA_PORT"],
        kafka_security=KafkaSecurity.model_validate(LOGIN_TO_KAFKA),
    )
    return Deployment(urls, collect_handlers(handlers), LocalRun(urls, folder, handlers=handlers))


def wait_healthy(project: ComposeProject) -> None:
    """Waits until all containers are healthy and `migrate` has succeeded. Prints what it waits for."""
    told = ""

    def healthy() -> bool:
        nonlocal told
        states = {one.name: one.health for one in project.containers()}
        waiting = {name: health for name, health in states.items() if health not in ("healthy", "done")}
        if (text := ", ".join(f"{name} {health}" for name, health in waiting.items())) != told:
            told = text
            print(f"waiting for: {text or 'nothing more'}", flush=True)
        assert "failed" not in waiting.values(), text
        return not waiting

    wait_until(healthy, timeout_seconds=HEALTHY_SECONDS, what="all is healthy", poll_seconds=LOOK_SECONDS)
    ended = {one.service for one in project.containers() if one.health == "done"}
    assert ended <= {"migrate"}


def wait_applied(deployment: Deployment, count: int) -> None:
    """Waits until this number of records has an outcome."""
    wait_until(
        lambda: sum(deployment.outcomes().values()) >= count,
        timeout_seconds=APPLIED_SECONDS,
        what=f"{count} records have their outcome",
    )


def settle(deployment: Deployment) -> None:
    """Waits until all records have an outcome, and all outgoing events are sent."""
    deployment.wait_settled(timeout_seconds=APPLIED_SECONDS)
    deployment.wait_sent(timeout_seconds=APPLIED_SECONDS)
