"""The demo through PgBouncer, and with a role of least rights for each process."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from sluice.admin.init import initialise
from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from sluice.testing.servers.processes import Start
from tests.demo.__main__ import HANDLERS, PARTITIONS
from tests.demo.playing import SCENARIOS, ProgressLog, play_all
from tests.demo.report import Played
from tests.demo.stage import FAST_SIZES, Stage
from tests.harness.granted_roles import GrantedRoles, GrantedStart, owned_database, refused_rights
from tests.harness.pgbouncer import pgbouncer
from tests.harness.providers import Providers

pytestmark = [pytest.mark.matrix, pytest.mark.own("kafka", "postgres", "redis")]


def play_demo(urls: StackUrls, stack: Stack, start: Start, folder: Path) -> None:
    """Plays all scenarios of the demo with fewer events. Asserts that each check of each scenario holds."""
    played: list[Played] = []
    with Providers(folder / "providers", start=start) as providers, ProgressLog() as progress:
        run = LocalRun(urls, folder, handlers=HANDLERS, environment=providers.environ(), start=start)
        registry = collect_handlers(HANDLERS)
        with run, closing(Deployment(urls, registry, run)) as deployment:
            initialise(urls, registry, partitions=PARTITIONS)
            play_all(SCENARIOS, partial(Stage, deployment, providers, stack, FAST_SIZES), progress, played)
    failed = [
        (one.number, one.reason, [check for check in one.checks if not check.ok])
        for one in played
        if not one.ok
    ]
    assert failed == []
    assert len(played) == len(SCENARIOS)


@pytest.fixture
def urls(kafka: Stack, postgres: Stack, redis: Stack) -> StackUrls:
    """Returns the addresses of the servers of this test."""
    access = kafka.kafka_access()
    return StackUrls(postgres.database_url(), redis.redis_url(), access.bootstrap_servers, access.security)


def test_the_demo_passes_through_pgbouncer(
    urls: StackUrls, own_stack: Stack, start: Start, tmp_path: Path
) -> None:
    with pgbouncer(urls.database_url) as pooled:
        play_demo(replace(urls, database_url=pooled), own_stack, start, tmp_path)


def test_the_demo_passes_with_least_rights(
    urls: StackUrls, own_stack: Stack, start: Start, tmp_path: Path
) -> None:
    with owned_database(urls.database_url) as owned, closing(GrantedRoles()) as roles:
        play_demo(replace(urls, database_url=owned), own_stack, GrantedStart(start, roles), tmp_path)
    assert refused_rights(tmp_path) == []
