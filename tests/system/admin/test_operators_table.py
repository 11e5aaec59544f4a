"""`status` and `doctor` print each situation of the operator's table, and its cure ends the situation."""

from collections.abc import Iterator, Mapping
from functools import partial

import pytest

from sluice.admin.doctor import kafka_reading
from sluice.admin.doctor.facts_reading import Looks
from sluice.stack import Stack
from tests.harness import stacks
from tests.harness.processes import Zygote
from tests.system.admin.operators_table import RunningDeployment, read_table
from tests.system.admin.simulations import SITUATIONS, Simulation
from tests.system.conftest import making_deployments

BASE = "tests.system.admin.situations_app"
TABLE = read_table()
SMOKE = frozenset(
    {
        "no bridge runs",
        "no relay runs",
        "a call failed",
        "an old transaction",
        "Postgres can only be read",
        "the password is wrong",
    }
)
"""The situations that every test run simulates. The matrix simulates the others."""


@pytest.fixture(scope="module")
def running_deployment(
    shared_stack: Stack, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningDeployment]:
    """Yields a deployment with one running process of each kind, on its own Postgres and its own Redis."""
    folder = tmp_path_factory.mktemp("operator")
    with stacks.own_stack() as own, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr("sluice.cli.doctor.Looks", partial(Looks, watch_seconds=2.0, inspect_seconds=0.2))
        patch.setattr(kafka_reading, "BOOTSTRAP_TIMEOUT_MS", 1_000)
        shared_stack.start("kafka")
        own.start("postgres")
        own.start("redis")
        with (
            stacks.database(own) as url,
            making_deployments(
                shared_stack, own, stacks.empty_redis(own), url, folder, zygote.start
            ) as make_deployment,
        ):
            work = RunningDeployment(make_deployment(BASE, partitions=1))
            work.start("bridge", "worker", "relay", "effects", "rebuild", "beat")
            work.produce("thing-0")
            work.deployment.wait_settled()
            yield work


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.matrix] * (name not in SMOKE)) for name in TABLE]
)
def test_a_situation_is_printed_and_its_cure_works(running_deployment: RunningDeployment, name: str) -> None:
    row = TABLE[name]
    simulation = SITUATIONS[name](running_deployment)
    next(simulation)
    try:
        running_deployment.assert_printed(row)
    finally:
        environ = _finish(simulation)
    running_deployment.assert_cured(row, environ or {})


def _finish(simulation: Simulation) -> Mapping[str, str] | None:
    try:
        next(simulation)
    except StopIteration as ended:
        environ: Mapping[str, str] | None = ended.value
        return environ
    raise AssertionError("a simulation must yield only one time")


def test_every_situation_has_a_simulation() -> None:
    assert set(TABLE) >= SMOKE
    assert set(SITUATIONS) == set(TABLE)
