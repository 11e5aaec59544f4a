"""The compose file in a container engine: start, scale, apply events, kill a worker, stop."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml

from sluice.db.delivery.leases import read_workers
from sluice.kafka_io.config import build_confluent_admin
from sluice.testing.servers.deployment import Deployment
from tests.compose.project import COMPOSE_FILE, ComposeProject, Container, wiped
from tests.compose.steps import (
    LOOK_SECONDS,
    deployment_of,
    say,
    settle,
    timed,
    wait_applied,
    wait_healthy,
)
from tests.harness.storm import mixed_events
from tests.waiting import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1_800)]

SERVICES = set(yaml.safe_load(COMPOSE_FILE.read_text())["services"])

SHARED_SECONDS = 30.0
TAKEN_OVER_SECONDS = 10.0  # Postgres ends the session of a killed worker at once, of a frozen one after 5 s

BATCH = 100  # events
PAUSE_SECONDS = 0.1  # pause between two batches, so at most 1,000 events a second
FLOWING = 2_000  # number of events that are applied before the test kills a worker


def test_the_services_scale_and_no_event_is_lost_when_a_worker_is_killed(
    project: ComposeProject, tmp_path: Path
) -> None:
    with wiped(project), closing(deployment_of(project, tmp_path)) as deployment:
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
    admin = build_confluent_admin(deployment.urls.kafka_access, {})
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
