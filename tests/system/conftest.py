"""Fixtures of deployments. Each deployment has its own topics, database and Redis database."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import cast

import pytest

from sluice.admin.init import initialise
from sluice.runtime.partition_share import WHOLE, parse_share
from sluice.runtime.schema_name import with_schema
from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from sluice.testing.servers.processes import Start, start_new
from tests.conftest import LEAST_RIGHTS
from tests.harness import stacks
from tests.harness.granted_roles import GrantedRoles, GrantedStart, owned_database, refused_rights
from tests.harness.processes import Zygote
from tests.harness.providers import Providers

_numbers = itertools.count(1)

MakeDeployment = Callable[..., Deployment]

_APP = """\
from dataclasses import replace
import {base} as base
from {base} import *
entities = {{topic.entity.name: topic.entity for topic in base.topics}}
if {shards}:
    entities = {{name: replace(entity, shards={shards}) for name, entity in entities.items()}}
topics = tuple(
    replace(topic, name=topic.name + "{suffix}", entity=entities[topic.entity.name]) for topic in base.topics
)
"""


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Yields the zygote of this pytest worker. The zygote forks the processes of the tests."""
    made = Zygote()
    yield made
    made.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--least-rights`, selects the tests that start processes, except those marked `all_rights`."""
    if not config.getoption(LEAST_RIGHTS):
        return
    selected = [one for one in items if has_a_case_of_least_rights(one)]
    config.hook.pytest_deselected(items=[one for one in items if one not in selected])
    items[:] = selected


def has_a_case_of_least_rights(item: pytest.Item) -> bool:
    """Returns True if the processes of the test can have roles of least rights."""
    # Some tests have their own `start`, and some start processes without it.
    uses_both = {"start", "has_least_rights"}.issubset(getattr(item, "fixturenames", ()))
    return uses_both and item.get_closest_marker("all_rights") is None


@pytest.fixture(scope="session")
def has_least_rights(pytestconfig: pytest.Config) -> bool:
    """True if each process has a role of least rights, and the owner of the tables is no superuser."""
    return bool(pytestconfig.getoption(LEAST_RIGHTS))


@pytest.fixture
def database_url(postgres: Stack, has_least_rights: bool) -> Iterator[str]:
    """Yields the URL of a database that only this test uses."""
    made = owned_database(postgres.database_url()) if has_least_rights else stacks.database(postgres)
    with made as url:
        yield url


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path, has_least_rights: bool) -> Iterator[Start]:
    """Yields a function that starts a process: a fork, or a new interpreter for tests marked `unforked`.

    With least rights, each process has its own role. If Postgres refused a right, the test fails.
    """
    is_forked = request.node.get_closest_marker("unforked") is None
    start = cast("Zygote", request.getfixturevalue("zygote")).start if is_forked else start_new
    if not has_least_rights:
        yield start
        return
    request.getfixturevalue("database_url")  # it must exist until the roles are dropped
    with closing(GrantedRoles()) as roles:
        yield GrantedStart(start, roles)
        refused = refused_rights(tmp_path)
    assert not refused, "\n".join(refused[:20])


@pytest.fixture
def make_deployment(
    kafka: Stack,
    postgres: Stack,
    redis_url: str,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: Start,
) -> Iterator[MakeDeployment]:
    """Yields a function that makes deployments with their own topics. Ends all their processes afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    with making_deployments(kafka, postgres, redis_url, database_url, tmp_path, start) as make:
        yield make


@contextmanager
def making_deployments(
    kafka: Stack, postgres: Stack, redis_url: str, database_url: str, tmp_path: Path, start: Start
) -> Iterator[MakeDeployment]:
    """Yields a function that makes deployments with modules in `tmp_path`. Ends all processes afterwards."""
    made: list[Deployment] = []
    databases = ExitStack()

    def make(
        base: str = "examples.shop.handlers",
        *,
        partitions: int = 4,
        replication: int = 1,
        beside: Deployment | None = None,
        schema: str = "",
        shards: int = 0,
        **environment: str,
    ) -> Deployment:
        """Makes a deployment of the handlers in the module `base`.

        With `beside`, makes a second installation. It shares the topics and the Redis of that deployment, but
        has its own database, or with `schema` a schema of that database. `shards` is for every entity type; 0
        keeps the numbers that `base` declares.
        """
        own_suffix = f"-{os.getpid()}-{next(_numbers)}"
        suffix = own_suffix if beside is None else beside.topic_suffix
        module = f"app{own_suffix.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(_APP.format(base=base, suffix=suffix, shards=shards))
        if schema and beside is not None:
            own_url = with_schema(beside.urls.database_url, schema)
        else:
            own_url = database_url if beside is None else databases.enter_context(stacks.database(postgres))
        access = kafka.kafka_access()
        urls = StackUrls(own_url, redis_url, access.bootstrap_servers, access.security)
        run = LocalRun(
            urls,
            tmp_path / module if beside else tmp_path,
            handlers=module,
            source=module,
            environment=environment,
            python_path=tmp_path,
            start=start,
        )
        registry = collect_handlers(module)
        sys.modules.pop(module, None)
        share = parse_share(environment.get("SLUICE_PARTITION_SHARE", str(WHOLE)))
        initialise(urls, registry, share=share, partitions=partitions, replication_factor=replication)
        deployment = Deployment(urls, registry, run.__enter__(), topic_suffix=suffix, share=share)
        made.append(deployment)
        return deployment

    try:
        yield make
    finally:
        for deployment in made:
            deployment.run.stop_all()
            deployment.close()
        databases.close()


@pytest.fixture
def providers(tmp_path: Path, start: Start) -> Iterator[Providers]:
    """Yields a payment provider and a mail server for this test only."""
    with Providers(tmp_path / "providers", start=start) as made:
        yield made
