"""The part `scaling`: runs 1, 2 and 4 workers, and compares the model of `bench.scaling` with each run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from rich.table import Table

from bench.contenders import SLUICE_1, SLUICE_2, SLUICE_4
from bench.drain import Drain
from bench.scaling import MOST_MISS, EventCost, Prediction, miss_of, predict, waiting_of
from sluice.runtime.terminal_text import counted

CHECKED = (SLUICE_1, SLUICE_2, SLUICE_4)


@dataclass(frozen=True)
class CheckedRun:
    """One prediction beside the median of its runs."""

    workers: int
    cost: EventCost
    prediction: Prediction
    measured_per_second: float

    @property
    def miss(self) -> float:
        """The relative error of the prediction."""
        return miss_of(self.prediction, measured_per_second=self.measured_per_second)


def check_model(drains: Sequence[Drain], *, cores: int | None = None) -> Iterator[CheckedRun]:
    """Yields a prediction for each number of workers that was measured.

    The costs and the waiting time are those of the runs with one worker. `cores`: None for the cores of this
    process.
    """
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    alone = [drain for drain in drains if drain.contender == SLUICE_1.name]
    if not alone:
        return
    cost = cost_of(alone)
    cost = replace(cost, waiting=waiting_of(cost, measured_per_second=rate_of(alone)))
    for contender in CHECKED:
        runs = [drain for drain in drains if drain.contender == contender.name]
        if runs:
            found = predict(cost, cores=cores, workers=contender.workers)
            yield CheckedRun(contender.workers, cost, found, rate_of(runs))


def cost_of(drains: Sequence[Drain]) -> EventCost:
    """Returns the median CPU time per event of each group of processes."""

    def middle(group: str) -> float:
        return median(drain.cpu_us.get(group, 0.0) for drain in drains)

    return EventCost(*(middle(group) for group in ("worker", "postgres", "bridge", "kafka", "redis")))


def rate_of(drains: Sequence[Drain]) -> float:
    """Returns the median events per second."""
    return median(drain.per_second for drain in drains)


def model_table(checked: Sequence[CheckedRun]) -> Table:
    """Returns the table of predictions beside measurements."""
    table = Table(title="The model of docs/scaling.md beside the runs")
    for heading in ("workers", "predicted events/s", "limit", "measured events/s", "miss"):
        table.add_column(heading, justify="right")
    for one in checked:
        table.add_row(
            str(one.workers),
            f"{one.prediction.per_second:,.0f}",
            str(one.prediction.limit),
            f"{one.measured_per_second:,.0f}",
            f"{one.miss:+.0%}",
        )
    return table


def model_complaints(checked: Sequence[CheckedRun]) -> list[str]:
    """Returns the runs that the model misses by more than MOST_MISS."""
    return [
        f"the model of docs/scaling.md misses {counted(one.workers, 'worker')} by {one.miss:+.0%}"
        for one in checked
        if abs(one.miss) > MOST_MISS
    ]
