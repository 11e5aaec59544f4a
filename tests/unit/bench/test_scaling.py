"""The model of docs/scaling.md: its limits, and its figures in the document."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.contenders import SLUICE_1, SLUICE_2, SLUICE_4
from bench.drain import Drain
from bench.scaling import (
    MOST_MISS,
    EventCost,
    Limit,
    cores_for,
    miss_of,
    postgres_carries,
    predict,
    waiting_of,
)
from bench.scaling_part import check_model, model_complaints
from tests.documents import ROOT

# The figures of docs/operating.md, measured on two cores.
MEASURED = EventCost(worker=29, postgres=20.5, bridge=6.7, kafka=2.8, redis=2.4)
RATES = {1: 18_608, 2: 31_035, 4: 30_204}
COST = replace(MEASURED, waiting=waiting_of(MEASURED, measured_per_second=RATES[1]))

COSTS = st.builds(EventCost, *[st.floats(1, 1_000)] * 5, waiting=st.floats(0, 1_000))


@given(COSTS, st.integers(1, 64), st.integers(1, 64), st.integers(1, 8))
def test_more_of_a_part_never_lowers_the_throughput(
    cost: EventCost, cores: int, workers: int, bridges: int
) -> None:
    found = predict(cost, cores=cores, workers=workers, bridges=bridges).per_second
    assert found <= predict(cost, cores=cores + 1, workers=workers, bridges=bridges).per_second
    assert found <= predict(cost, cores=cores, workers=workers + 1, bridges=bridges).per_second
    assert found <= predict(cost, cores=cores, workers=workers, bridges=bridges + 1).per_second


@given(COSTS, st.integers(1, 64), st.integers(1, 64))
def test_a_prediction_never_uses_more_cores_than_there_are(cost: EventCost, cores: int, workers: int) -> None:
    found = predict(cost, cores=cores, workers=workers)
    assert sum(cores_for(cost, per_second=found.per_second).values()) <= cores * 1.000_001
    assert found.per_second * cost.in_worker <= workers * 1_000_000 * 1.000_001


@pytest.mark.parametrize("workers", RATES)
def test_the_model_misses_no_measured_run_by_more_than_a_fifth(workers: int) -> None:
    miss = miss_of(predict(COST, cores=2, workers=workers), measured_per_second=RATES[workers])
    assert abs(miss) <= MOST_MISS


def test_a_model_in_which_a_worker_never_waits_for_postgres_is_caught() -> None:
    found = predict(replace(MEASURED, postgres=0), cores=2, workers=1)
    assert miss_of(found, measured_per_second=RATES[1]) > MOST_MISS


def test_one_worker_is_its_own_limit_and_four_workers_share_two_cores() -> None:
    assert predict(COST, cores=2, workers=1).limit is Limit.WORKERS
    assert predict(COST, cores=2, workers=4).limit is Limit.CORES
    assert predict(COST, cores=64, workers=32).limit is Limit.BRIDGES


def test_the_bench_complains_about_a_run_that_the_model_misses() -> None:
    cpu = {"worker": 29.0, "postgres": 20.5, "bridge": 6.7, "kafka": 2.8, "redis": 2.4}

    def drains(rates: dict[int, float]) -> list[Drain]:
        names = {one.workers: one.name for one in (SLUICE_1, SLUICE_2, SLUICE_4)}
        return [
            Drain(names[n], "", "all new", 0, 1_000, 1_000 / rate, 1, cpu, 1_000.0, [])
            for n, rate in rates.items()
        ]

    good = list(check_model(drains({n: float(rate) for n, rate in RATES.items()}), cores=2))
    assert [one.workers for one in good] == [1, 2, 4]
    assert model_complaints(good) == []
    bad = list(check_model(drains({1: 18_608.0, 2: 20_000.0}), cores=2))
    (complaint,) = model_complaints(bad)
    assert "2 workers" in complaint
    assert list(check_model([], cores=2)) == []


def test_the_document_shows_the_predictions_of_the_model() -> None:
    page = (ROOT / "docs/scaling.md").read_text()
    for workers, rate in RATES.items():
        found = predict(COST, cores=2, workers=workers)
        miss = miss_of(found, measured_per_second=rate)
        shown = f"{round(100 * miss):+d} %"
        assert f"| {workers} | {found.per_second:,.0f} | {found.limit} | {rate:,} | {shown} |" in page
    for part, cores in cores_for(COST, per_second=10_000).items():
        assert f"| {part} | {cores:.2f} |" in page
    for cores in (2, 4, 8, 16):
        assert f"| {cores} | {postgres_carries(COST, cores=cores):,.0f} |" in page
