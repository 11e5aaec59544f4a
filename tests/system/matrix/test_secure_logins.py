"""Logins that are refused while events arrive, on secure servers."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from redis import Redis
from sqlalchemy.engine import make_url

from examples.shop.tables import billing_line_items
from sluice.db.projections.generations import read_generations
from sluice.kafka_io.login_check import EXPIRED
from sluice.runtime.kafka_access import setting
from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness import stacks
from tests.harness.secure_kafka import SecureStack, secure_stack
from tests.harness.storm import mixed_events
from tests.scraping import ask_health, scrape
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle

pytestmark = [pytest.mark.matrix, pytest.mark.unforked, pytest.mark.timeout(1_800)]

CLIENTS = ("confluent", "kafka-python")
RATE = 60
SETTLE_SECONDS = 3
WHY = ("--reason", "test")
LOGIN_SECONDS = 8.0  # after this time, each connection to Kafka must log in again


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureStack]:
    """Yields secure servers, on which logins expire."""
    root = stacks.FOLDER / f"{os.getpid()}-secure-logins"
    with secure_stack(root, "postgres", "redis", login_seconds=LOGIN_SECONDS) as stack:
        yield stack


@pytest.fixture
def kafka(secure: SecureStack) -> Stack:
    """Returns the secure servers, which replace those of the test run."""
    return secure


@pytest.fixture
def postgres(secure: SecureStack) -> Stack:
    """Returns the secure servers, which replace those of the test run."""
    return secure


@pytest.fixture
def redis(secure: SecureStack) -> Stack:
    """Returns the secure servers, which replace those of the test run."""
    return secure


def by_certificate(deployment: Deployment, secure: SecureStack) -> Deployment:
    """Returns the deployment with another login at Kafka, for the test's own connections."""
    access = secure.access("SSL")
    urls = replace(
        deployment.urls,
        kafka_bootstrap_servers=access.bootstrap_servers,
        kafka_security=access.security,
    )
    return replace(deployment, urls=urls)


def load_of(deployment: Deployment) -> SteadyLoad:
    return SteadyLoad(deployment, lambda count, first: mixed_events(count, seed=first), rate=RATE)


def is_up(process: RunningProcess, server: str) -> float | None:
    """Returns the value of the metric; None if it has none yet."""
    return (scrape(process.metrics_port) or {}).get(("sluice_server_up", (server,)))


def wait_up(deployment: Deployment, process: RunningProcess, server: str, value: int) -> None:
    deployment.wait_until(
        lambda: is_up(process, server) == value,
        timeout_seconds=120,
        what=f"{server} has the value {value} in {process.name}",
    )


def refused_by_password(secure: SecureStack) -> tuple[AbstractContextManager[None], str]:
    return secure.password_changed(), setting("username")


def refused_by_certificate(secure: SecureStack) -> tuple[AbstractContextManager[None], str]:
    return secure.certificate_expired(), EXPIRED


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("refuse", [refused_by_password, refused_by_certificate])
def test_a_login_refused_under_load_is_reported_and_nothing_is_lost(
    make_deployment: MakeDeployment,
    secure: SecureStack,
    client: str,
    refuse: Callable[[SecureStack], tuple[AbstractContextManager[None], str]],
) -> None:
    made = make_deployment(SLUICE_KAFKA_CLIENT=client)
    deployment = by_certificate(made, secure)
    run = made.run
    run.with_metrics = True
    bridge = run.start_bridge()
    others = [run.start_relay(), run.start_worker(), run.start_beat()]
    refused, sentence = refuse(secure)
    with load_of(deployment) as load:
        load.wait_more(SETTLE_SECONDS)
        wait_up(deployment, bridge, "kafka", 1)
        with refused:
            wait_up(deployment, bridge, "kafka", 0)
            deployment.wait_until(
                lambda: sentence in bridge.log.read_text(), timeout_seconds=60, what="the cause is named"
            )
            load.wait_more(SETTLE_SECONDS)
        wait_up(deployment, bridge, "kafka", 1)
        load.wait_more(SETTLE_SECONDS)
    deployment.wait_settled(timeout_seconds=240)
    deployment.wait_sent(timeout_seconds=240)
    assert_equals_the_oracle(deployment)
    assert [one.exit_code for one in (bridge, *others)] == [None] * 4
    deployment.close()


def test_the_metric_is_0_while_postgres_or_redis_refuses_the_login(
    make_deployment: MakeDeployment, secure: SecureStack
) -> None:
    deployment = make_deployment()
    deployment.run.with_metrics = True
    processes = [deployment.run.start_bridge(), deployment.run.start_worker(), deployment.run.start_beat()]
    for process in processes:
        # A process that starts would be refused, instead of continuing with its connections.
        deployment.wait_until(
            lambda process=process: ask_health(process.metrics_port, "/readyz") == (200, "ok\n"),  # type: ignore[misc]
            timeout_seconds=120,
            what=f"{process.name} is ready",
        )
    url = make_url(secure.database_url())

    def set_postgres(password: str) -> None:
        deployment.session.command(f"ALTER ROLE {url.username} PASSWORD '{password}'")

    def set_redis(password: str) -> None:
        with Redis.from_url(secure.redis_admin_url()) as admin:
            admin.execute_command("ACL", "SETUSER", "sluice", "resetpass", f">{password}")

    redis_password = make_url(secure.redis_url()).password
    for server, change, password in (
        ("postgres", set_postgres, str(url.password)),
        ("redis", set_redis, str(redis_password)),
    ):
        for process in processes:
            wait_up(deployment, process, server, 1)
        change("changed")
        try:
            for process in processes:
                wait_up(deployment, process, server, 0)
        finally:
            change(password)
        for process in processes:
            wait_up(deployment, process, server, 1)
    assert [process.exit_code for process in processes] == [None] * 3


def test_a_rebuild_runs_on_secure_servers(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    for start in (
        deployment.run.start_bridge,
        deployment.run.start_worker,
        deployment.run.start_relay,
        deployment.run.start_beat,
        deployment.run.start_rebuilds,
    ):
        start()
    deployment.produce(mixed_events(600, seed=1))
    deployment.wait_settled(timeout_seconds=120)
    table = billing_line_items.name
    deployment.run.run_sluice("rebuild", "start", table, "--no-wait", *WHY)
    deployment.wait_until(
        lambda: (
            {one.generation: one.state for one in read_generations(deployment.session, table)}.get(2)
            == "ready"
        ),
        timeout_seconds=180,
        what="the new generation has caught up",
    )
    for words in (("diff", table), ("approve", table, "--yes", *WHY), ("swap", table, "--yes", *WHY)):
        deployment.run.run_sluice("rebuild", *words)
    assert_equals_the_oracle(deployment)
