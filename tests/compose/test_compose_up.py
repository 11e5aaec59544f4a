"""The compose file in a container engine: start, scale, apply events, kill a worker, stop."""

import os
import string
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml
from confluent_kafka.admin import AdminClient

from sluice.db.delivery.leases import read_workers
from sluice.runtime.secret_files import with_password
from sluice.runtime.service_urls import StackUrls
from sluice.stack.ports import LOOPBACK, choose_ports
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from tests.compose.project import (
    COMPOSE_FILE,
    PASSWORD_NAMES,
    ComposeProject,
    Container,
    NoEngine,
    brought_down,
    find_compose,
)
from tests.harness.storm import mixed_events
from tests.waiting import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1_800)]

PORT_NAMES = ("KAFKA_PORT", "POSTGRES_PORT", "REDIS_PORT", "FLOWER_PORT")
PASSWORD = string.digits + string.ascii_letters + string.punctuation + " "
HANDLERS = "examples.shop.handlers"
SERVICES = set(yaml.safe_load(COMPOSE_FILE.read_text())["services"])

HEALTHY_SECONDS = 180.0  # Kafka may recover its logs, and all processes start at the same time
LOOK_SECONDS = 1.0  # pause between two checks of the containers, because each check starts a program
SHARED_SECONDS = 30.0
TAKEN_OVER_SECONDS = 10.0  # Postgres ends the session of a killed worker at once, of a frozen one after 5 s
APPLIED_SECONDS = 120.0

BATCH = 100  # events
PAUSE_SECONDS = 0.1  # pause between two batches, so at most 1,000 events a second
FLOWING = 2_000  # number of events that are applied before the test kills a worker


@pytest.fixture(scope="module")
def project() -> ComposeProject:
    """Returns a project that is not started yet."""
    try:
        compose = find_compose()
    except NoEngine as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    ports = choose_ports(PORT_NAMES, {}, set())
    environment = {name: str(port) for name, port in ports.items()} | dict.fromkeys(PASSWORD_NAMES, PASSWORD)
    return ComposeProject(compose, f"sluice-test-{os.getpid()}", environment)


def test_the_services_scale_and_no_event_is_lost_when_a_worker_is_killed(
    project: ComposeProject, tmp_path: Path
) -> None:
    with brought_down(project), closing(deployment_of(project, tmp_path)) as deployment:
        timed("up, with the image built", lambda: project.up("--build"))
        timed("healthy after that", lambda: wait_healthy(project))
        assert {one.service for one in project.containers()} == SERVICES

        timed("up with 3 workers and 2 bridges", lambda: project.up(worker=3, bridge=2))
        timed("healthy after that", lambda: wait_healthy(project))
        assert (count_of(project, "worker"), count_of(project, "bridge")) == (3, 2)
        timed("3 workers share the queues", lambda: wait_shared(deployment, workers=3))
        timed("2 bridges share the partitions", lambda: wait_read(deployment, bridges=2))

        with flowing_events(deployment):
            timed("events are applied", lambda: wait_applied(deployment, FLOWING))
            victim = worker_at_work(project, deployment)
            begin = time.monotonic()
            project.kill(victim)
            say("killed", time.monotonic() - begin)
            wait_shared(deployment, workers=2, timeout_seconds=TAKEN_OVER_SECONDS)
            say("the other workers hold its queues", time.monotonic() - begin)
            more = sum(deployment.outcomes().values()) + FLOWING
            timed("more events are applied", lambda: wait_applied(deployment, more))
            timed("down to 1 worker and 1 bridge", lambda: project.up(worker=1, bridge=1))
            timed("it has all queues", lambda: wait_shared(deployment, workers=1))
            timed("it has all partitions", lambda: wait_read(deployment, bridges=1))
        timed("every event has its outcome", lambda: settle(deployment))
        complaints = deployment.complaints(deployment.tables())
        assert not complaints, "\n".join(complaints[:20])
        records = sum(deployment.outcomes().values())
        print(f"{records} records have the rows that the oracle computes", flush=True)


def timed(what: str, act: Callable[[], None]) -> None:
    """Calls `act` and prints its duration."""
    begin = time.monotonic()
    act()
    say(what, time.monotonic() - begin)


def say(what: str, seconds: float) -> None:
    """Prints a line of the report."""
    print(f"{seconds:6.1f} s  {what}", flush=True)


def deployment_of(project: ComposeProject, folder: Path) -> Deployment:
    """Returns a deployment that reaches the containers through their published ports."""
    port = {name: f"{LOOPBACK}:{project.environment[name]}" for name in PORT_NAMES}
    urls = StackUrls(
        database_url=with_password(f"postgresql+psycopg2://app@{port['POSTGRES_PORT']}/sluice", PASSWORD),
        redis_url=with_password(f"redis://{port['REDIS_PORT']}/0", PASSWORD),
        kafka_bootstrap_servers=port["KAFKA_PORT"],
    )
    return Deployment(urls, collect_handlers(HANDLERS), LocalRun(urls, folder, handlers=HANDLERS))


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


def count_of(project: ComposeProject, service: str) -> int:
    """Returns the number of containers of the service."""
    return sum(one.service == service for one in project.containers())


def wait_shared(deployment: Deployment, *, workers: int, timeout_seconds: float = SHARED_SECONDS) -> None:
    """Waits until this number of workers holds all queues, in equal shares."""

    def shared() -> bool:
        found = read_workers(deployment.session)
        shares = Counter(found.holders().values())
        is_fair = len(shares) == workers and max(shares.values()) - min(shares.values()) <= 1
        return is_fair and shares.total() == len(found.leases)

    wait_until(shared, timeout_seconds=timeout_seconds, what=f"{workers} workers share the queues")


def wait_read(deployment: Deployment, *, bridges: int) -> None:
    """Waits until this number of bridges has partitions."""
    servers = deployment.urls.kafka_bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    group = deployment.installation.group

    def read() -> bool:
        members = admin.describe_consumer_groups([group])[group].result().members
        return sum(bool(member.assignment.topic_partitions) for member in members) == bridges

    wait_until(
        read, timeout_seconds=SHARED_SECONDS, what=f"{bridges} bridges read", poll_seconds=LOOK_SECONDS
    )


def worker_at_work(project: ComposeProject, deployment: Deployment) -> Container:
    """Returns the container of a worker that has a batch in flight."""

    def busy() -> list[str]:
        workers = read_workers(deployment.session).workers
        return [worker.node.partition("@")[2] for worker in workers if worker.busy_queue]

    hostname = wait_until(busy, timeout_seconds=SHARED_SECONDS, what="a worker has a batch in flight")[0]
    [found] = [one for one in project.containers() if one.hostname == hostname]
    assert found.service == "worker"
    return found


@contextmanager
def flowing_events(deployment: Deployment) -> Iterator[None]:
    """Produces events of all kinds during the `with` block. Fails if an event could not be produced."""
    over = threading.Event()
    errors: list[Exception] = []

    def produce() -> None:
        seed = 0
        try:
            while not over.wait(PAUSE_SECONDS):
                seed += 1
                deployment.produce(mixed_events(BATCH, seed=seed))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not errors, errors


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
