"""Limits compare contenders of the same round, and are met exactly at their value."""

import pytest

from bench.contenders import FASTSTREAM, HANDWRITTEN, NAIVE, SLUICE_2, SLUICE_2_KAFKA_PYTHON, Contender
from bench.floors import Floor, drain_floors, latency_floors, mixed_floors, snapshot_floors
from bench.latency import Latency
from bench.snapshot import Window
from tests.unit.bench.made import made_drain


def floor_of(floors: list[Floor], what: str) -> Floor:
    [found] = [floor for floor in floors if floor.what == what and not floor.is_target]
    return found


@pytest.mark.parametrize(
    ("base", "least"),
    [(HANDWRITTEN, 0.55), (FASTSTREAM, 0.37), (NAIVE, 40)],
    ids=("by hand", "FastStream", "naive"),
)
@pytest.mark.parametrize(("share", "met"), [(0.99, False), (1.01, True)])
def test_the_drain_of_the_default_client_has_a_floor(
    base: Contender, least: float, share: float, met: bool
) -> None:
    drains = [made_drain(base, 1_000), made_drain(SLUICE_2, 1_000 * least * share)]
    assert floor_of(list(drain_floors(drains)), f"{SLUICE_2.name} ÷ {base.name}").met is met


@pytest.mark.parametrize(("rate", "met"), [(399, False), (401, True)])
def test_the_drain_with_kafka_python_has_a_floor(rate: float, met: bool) -> None:
    drains = [made_drain(HANDWRITTEN, 1_000), made_drain(SLUICE_2_KAFKA_PYTHON, rate)]
    assert (
        floor_of(list(drain_floors(drains)), f"{SLUICE_2_KAFKA_PYTHON.name} ÷ {HANDWRITTEN.name}").met is met
    )


def test_a_slow_round_does_not_change_a_ratio() -> None:
    drains = [
        made_drain(one, rate / slowness, turn=turn)
        for turn, slowness in enumerate((1, 10, 1))
        for one, rate in ((HANDWRITTEN, 1_000), (SLUICE_2, 600))
    ]
    assert floor_of(list(drain_floors(drains)), f"{SLUICE_2.name} ÷ {HANDWRITTEN.name}").measured == "0.60"


@pytest.mark.parametrize(("worker_us", "met"), [(59, True), (61, False)])
def test_the_cpu_ratio_omits_kafka_and_redis(worker_us: float, met: bool) -> None:
    drains = [
        made_drain(HANDWRITTEN, 1_000, peer=30, postgres=20, kafka=5),
        made_drain(SLUICE_2, 600, worker=worker_us, bridge=10, postgres=11, kafka=500, redis=500),
    ]
    [floor] = [floor for floor in drain_floors(drains) if "CPU" in floor.what]
    assert floor.met is met


def test_a_target_is_shown_beside_its_floor() -> None:
    drains = [made_drain(HANDWRITTEN, 1_000), made_drain(SLUICE_2, 600)]
    floor, target = [
        one for one in drain_floors(drains) if HANDWRITTEN.name in one.what and "CPU" not in one.what
    ]
    assert (floor.met, floor.is_target) == (True, False)
    assert (target.met, target.is_target) == (False, True)


@pytest.mark.parametrize(("rate", "met"), [(449, False), (451, True)])
def test_the_mixed_stream_has_a_floor(rate: float, met: bool) -> None:
    [floor] = mixed_floors([made_drain(HANDWRITTEN, 1_000), made_drain(SLUICE_2, rate)])
    assert floor.met is met


@pytest.mark.parametrize(("load", "limits"), [(0.9, 2), (1.0, 0)])
def test_latencies_have_limits_only_on_a_quiet_machine(load: float, limits: int) -> None:
    found = list(latency_floors([Latency(SLUICE_2.name, 1_000, 100, 41.0, 99.0, 120.0, load)]))
    assert [floor.met for floor in found] == [False, True][:limits]


@pytest.mark.parametrize(("cost", "p50", "met"), [(62, 12, [True, True]), (63, 13, [False, False])])
def test_an_old_snapshot_may_cost_a_quarter_more(cost: float, p50: float, met: list[bool]) -> None:
    windows = [Window(0, 50, 10, 20), Window(60, 500, 100, 200), Window(120, cost, p50, 20)]
    assert [floor.met for floor in snapshot_floors(windows)] == met
