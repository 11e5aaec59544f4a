"""Each situation of the operator's table: both commands print it, and the cure that they name ends it."""

from collections.abc import Iterator, Mapping
from functools import partial

import pytest

from sluice.admin.doctor import kafka_reading
from sluice.admin.doctor.facts_reading import Looks
from sluice.stack import Stack
from tests.harness import stacks
from tests.harness.processes import Zygote
from tests.system.admin.operators_table import AtWork, read_table
from tests.system.admin.plays import SITUATIONS, Play
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
"""Those that every run of the tests plays; the matrix plays the others."""


@pytest.fixture(scope="module")
def at_work(
    shared_stack: Stack, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AtWork]:
    """One process of each kind, on a Postgres and a Redis of their own, that work."""
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
            work = AtWork(make_deployment(BASE, partitions=1))
            work.start("bridge", "worker", "relay", "effects", "rebuild", "beat")
            work.produce("thing-0")
            work.deployment.wait_settled()
            yield work


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.matrix] * (name not in SMOKE)) for name in TABLE]
)
def test_a_situation_is_printed_and_its_cure_works(at_work: AtWork, name: str) -> None:
    row = TABLE[name]
    play = SITUATIONS[name](at_work)
    next(play)
    try:
        at_work.assert_printed(row)
    finally:
        environ = _finish(play)
    at_work.assert_cured(row, environ or {})


def _finish(play: Play) -> Mapping[str, str] | None:
    try:
        next(play)
    except StopIteration as ended:
        environ: Mapping[str, str] | None = ended.value
        return environ
    raise AssertionError("a play stops once")


def test_every_situation_is_played() -> None:
    assert set(TABLE) >= SMOKE
    assert set(SITUATIONS) == set(TABLE)
