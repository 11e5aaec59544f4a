"""A pass is one transaction that applies events one by one. Tests when a pass ends and when a pass is undone.

An event that is set aside is unproven until the pass wrote another entity, which shows that Postgres works.
"""

from dataclasses import dataclass

import pytest

from sluice.db.errors import DeploymentBroken, WriteSuppressed
from sluice.db.records import Outcome
from sluice.tasks.apply.single_events import (
    LONGEST_SECONDS,
    PASS_SECONDS,
    SingleEvents,
    may_be_set_aside,
    may_stand,
)
from sluice.tasks.fold.fold_state import EventResult
from tests.unit.db.test_errors import Answer
from tests.unit.tasks.scripted import scripted
from tests.unit.tasks.test_parking import of

APPLIED, STALE, DEAD, WAITING = Outcome.APPLIED, Outcome.STALE, Outcome.DEAD, Outcome.WAITING
HELD = Answer("55P03")


def result(key: str | None, outcome: Outcome) -> EventResult:
    return EventResult(of(key, scripted(0)), outcome)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def a_pass(limit: int | None = None) -> tuple[SingleEvents, Clock]:
    clock = Clock()
    return SingleEvents(limit, clock), clock


@pytest.mark.parametrize(
    ("code", "may"),
    [("57014", True), ("55P03", True), ("53100", True), ("53200", True), ("58030", True), ("40P01", False),
     ("57P01", False), ("25P03", False), ("08006", False), ("23505", False), ("42P01", False)],
)  # fmt: skip
def test_only_an_error_that_may_concern_a_single_event_sets_it_aside(code: str, may: bool) -> None:
    assert may_be_set_aside(Answer(code)) is may


STAND: list[tuple[str, list[str | None], list[tuple[str | None, Outcome]], bool]] = [
    ("another entity was written", ["a"], [("b", APPLIED)], True),
    ("no other event was settled", ["a"], [], False),
    ("its own entity was written before it", ["a"], [("a", APPLIED)], False),
    ("another event was stale", ["a"], [("b", STALE)], False),
    ("another event failed", ["a"], [("b", DEAD)], False),
    (
        "two events were set aside, and the entity of one of them was written before",
        ["a", "b"],
        [("b", APPLIED)],
        False,
    ),
    ("an event without an entity, another event with an entity", [None], [("b", APPLIED)], True),
    ("an event with an entity, another event without an entity", ["a"], [(None, APPLIED)], True),
]


@pytest.mark.parametrize(("aside", "others", "stands"), [c[1:] for c in STAND], ids=[c[0] for c in STAND])
def test_events_stay_set_aside_if_another_entity_was_written(
    aside: list[str | None], others: list[tuple[str | None, Outcome]], stands: bool
) -> None:
    put = [result(key, WAITING) for key in aside]
    settled = [*put, *(result(*other) for other in others)]
    assert may_stand(put, settled) is stands
    done, _ = a_pass()
    done.settled, done.aside = settled, [(one, HELD) for one in put]
    if stands:
        done.check()
    else:
        with pytest.raises(Answer) as raised:
            done.check()
        assert raised.value is HELD


def test_a_suppressed_write_is_its_events_fault_if_another_event_wrote_the_table() -> None:
    done, _ = a_pass()
    refused = WriteSuppressed("orders", 0, 1)
    done.suppressed = [(refused, DeploymentBroken(str(refused)))]
    done.written_tables = {"lines"}
    with pytest.raises(DeploymentBroken, match=r"orders: Postgres wrote 0 of 1 row.*trigger.*row-level"):
        done.check()
    done.written_tables |= {"orders"}
    done.check()


LATE = PASS_SECONDS + 1


@pytest.mark.parametrize(
    ("limit", "seconds", "settled", "unproven", "enough"),
    [
        (None, 0, 150, False, False),
        (None, LATE, 1, False, True),
        (3, 0, 2, False, False),
        (3, 0, 3, False, True),
        (1, 0, 1, True, False),
        (None, LATE, 1, True, False),
        (None, LONGEST_SECONDS, 1, True, True),
    ],
)
def test_a_pass_ends_at_its_time_or_limit_unless_an_event_in_it_is_unproven(
    limit: int | None, seconds: float, settled: int, unproven: bool, enough: bool
) -> None:
    done, clock = a_pass(limit)
    done.settled = [result(f"k{n}", STALE) for n in range(settled)]
    if unproven:
        done.aside = [(done.settled[0], HELD)]
    clock.now = seconds
    assert done.is_enough() is enough
