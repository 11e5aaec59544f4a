"""The whole system through PgBouncer, and with a role of least rights for each process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from examples.shop.generate import generate
from sluice.admin.grants import Role
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from tests.db.admin.test_grants import granted_roles
from tests.harness.pgbouncer import pgbouncer
from tests.harness.providers import Providers
from tests.system.conftest import MakeDeployment

pytestmark = pytest.mark.matrix

RunAs = Callable[[Role], LocalRun]


@pytest.fixture
def deployment(make_deployment: MakeDeployment, providers: Providers) -> Deployment:
    """Returns a deployment of the shop, with a payment provider and a mail server."""
    return make_deployment(**providers.environ())


@pytest.fixture(params=["least rights", "PgBouncer"])
def run_as(request: pytest.FixtureRequest, deployment: Deployment) -> Iterator[RunAs]:
    """Yields a function that returns the processes of a role. Ends all of them afterwards."""
    url = deployment.urls.database_url
    runs: list[LocalRun] = []

    def run_with(database_url: str) -> LocalRun:
        urls = replace(deployment.urls, database_url=database_url)
        runs.append(replace(deployment.run, urls=urls, processes=[]))
        return runs[-1]

    if request.param == "PgBouncer":
        with pgbouncer(url) as pooled, _stopping(runs):
            yield lambda _: run_with(pooled)
    else:
        with granted_roles(url) as as_role, _stopping(runs):
            yield lambda role: run_with(as_role(role))


@contextmanager
def _stopping(runs: list[LocalRun]) -> Iterator[None]:
    try:
        yield
    finally:
        for run in runs:
            run.stop_all()


def test_the_whole_system_runs(run_as: RunAs, deployment: Deployment) -> None:
    run_as(Role.BRIDGE).start_bridge()
    run_as(Role.WORKER).start_worker()
    run_as(Role.RELAY).start_relay()
    run_as(Role.EFFECTS).start_effects()
    run_as(Role.BEAT).start_beat()
    for topic in ("payments", "orders", "captures"):
        deployment.produce(generate(topic, count=50, seed=1))
    deployment.wait_settled(timeout_seconds=120)
    deployment.wait_sent(timeout_seconds=120)
    deployment.wait_called(timeout_seconds=120)
    assert deployment.complaints(deployment.tables()) == []
    reader = run_as(Role.READER)
    for command in ("status", "dlq ls", "effects ls", "outbox ls", "workers"):
        reader.run_sluice(*command.split())
    operator = run_as(Role.OPERATOR)
    operator.run_sluice("pause", "--topic", sorted(deployment.registry.topics)[0], "--reason", "test")
    operator.run_sluice("resume", "--topic", sorted(deployment.registry.topics)[0], "--reason", "test")
    operator.run_sluice("verify")
