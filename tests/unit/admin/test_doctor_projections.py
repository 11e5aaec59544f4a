"""Tests what `sluice doctor` reports about stopped generations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from sluice.admin.doctor.facts import Facts
from sluice.admin.doctor.findings import Severity
from sluice.admin.doctor.rules import find_problems
from sluice.db.projections.stopped_generations import StoppedPlace
from tests.unit.admin.doctor_facts import FAILED, projected

STOPPED = replace(FAILED, generation=1, state="stopped")


def stopped(offsets: Sequence[int], log_starts: Mapping[int, int], *, keeps_place: bool = True) -> Facts:
    """Returns facts in which the generation that readers use stopped at `offsets`, one per partition."""
    facts = projected(replace(STOPPED, keeps_place=keeps_place))
    assert facts.postgres is not None
    places = [StoppedPlace("revenue", 1, "orders", n, offset) for n, offset in enumerate(offsets)]
    return replace(
        facts,
        postgres=replace(
            facts.postgres,
            stopped_places=places,
            columns={**facts.postgres.columns, "revenue_g1": frozenset({"id"})},
        ),
        log_starts={("orders", number): start for number, start in log_starts.items()},
    )


@pytest.mark.parametrize(
    ("facts", "problem", "advice"),
    [
        (
            stopped([4, 9], {0: 2, 1: 9}),
            "too small; the generation will continue at orders:1:10, 1 offset after the log's start",
            '`sluice rebuild resume revenue --reason "…"`',
        ),
        (
            stopped([], {}),
            "readers see old rows: too small; no event has arrived since then",
            "rebuild resume revenue",
        ),
        (stopped([4], {}), "the starts of its logs could not be read", "rebuild resume revenue"),
        (
            stopped([4], {0: 5}),
            "the generation will continue at orders:0:5, 0 offsets after",
            "rebuild resume revenue",
        ),
        (stopped([4], {0: 6}), "orders[0] no longer holds the records", "rebuild start revenue"),
        (
            stopped([], {}, keeps_place=False),
            "its offset in the log is lost: too small",
            "rebuild start revenue",
        ),
    ],
    ids=[
        "two partitions",
        "no event after the stop",
        "no Kafka",
        "the next record is the first in the log",
        "the next record is deleted",
        "the offsets are lost",
    ],
)
def test_a_stopped_generation_is_named_with_its_distance_from_the_log_start(
    facts: Facts, problem: str, advice: str
) -> None:
    found = [one for one in find_problems(facts) if "is stopped" in one.problem]
    assert [(one.severity, problem in one.problem, advice in one.advice) for one in found] == [
        (Severity.ERROR, True, True)
    ]
    assert not [one for one in find_problems(facts) if "has no generation" in one.problem]


def test_a_stopped_generation_without_its_table_must_be_rebuilt_and_not_resumed() -> None:
    facts = stopped([4], {0: 2})
    assert facts.postgres is not None
    [found] = [one for one in find_problems(facts) if "is stopped" in one.problem]
    assert "readers see old rows" in found.problem
    columns = {name: names for name, names in facts.postgres.columns.items() if name != "revenue_g1"}
    facts = replace(facts, postgres=replace(facts.postgres, columns=columns))
    [found] = [one for one in find_problems(facts) if "is stopped" in one.problem]
    assert found.problem == "Generation 1 of revenue is stopped, and its table revenue_g1 does not exist."
    assert "sluice rebuild resume" not in found.advice
    assert "sluice rebuild start revenue" in found.advice
