"""The fold decides about each projection of an event separately. A failure undoes only this projection."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sluice.db.records import Outcome
from sluice.tasks.api import Event
from sluice.tasks.events.decode import decode
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FoldState
from sluice.tasks.fold.plan import plan_event
from sluice.tasks.fold.versioned_row import ABSENT
from tests.db.tasks.applying import TOPIC, TOPIC_ID, Thing, made, thing_set
from tests.db.tasks.failing_projections import BAD, as_it_is, raising, registry, shown

APPLIED, DEAD, CONFLICT, WAITING = Outcome.APPLIED, Outcome.DEAD, Outcome.CONFLICT, Outcome.WAITING


def constant(_event: Event[Thing]) -> int:
    return 1


def folded(
    amount: Callable[[Event[Thing]], int], *records: Any, version: Any = None, **memory: Any
) -> tuple[dict[tuple[str, str], int], list[EventResult]]:
    """Returns the amount of each (table, key), and the results of the events."""
    code = registry(amount, version=version)
    state = FoldState(lambda _table, _key: ABSENT, lambda _key: None, **memory)
    topic = code.topics[TOPIC]
    events = [plan_event(code, topic, decode(topic, TOPIC_ID, 0, record)) for record in records]
    settled = fold(events, state).settled
    rows = {(t.name, key): row.values["amount"] for (t, key), row in state.rows.items() if row.values}
    return rows, settled


def letters(settled: list[EventResult]) -> Iterator[tuple[int, str, Outcome, bool]]:
    for one in settled:
        for letter in one.letters:
            yield one.planned.decoded.record.offset, letter.projection, letter.outcome, letter.holds


@pytest.mark.parametrize("kind", [thing_set, shown])
def test_a_failed_projection_holds_back_later_events_of_the_entity_for_this_projection_only(
    kind: Callable[..., Any],
) -> None:
    rows, settled = folded(raising, kind(0, "a", BAD), kind(1, "a", 2), kind(2, "b", 3))
    assert [one.outcome for one in settled] == [APPLIED] * 3
    assert list(letters(settled)) == [(0, "totals", DEAD, True), (1, "totals", WAITING, True)]
    plain = {("things", "a"): 2, ("things", "b"): 3} if kind is thing_set else {}
    assert rows == {("totals", "b"): 3, ("labels", "a"): 2, ("labels", "b"): 3, **plain}


def test_a_conflict_in_a_projection_makes_a_letter_and_the_event_is_applied() -> None:
    rows, settled = folded(as_it_is, shown(0, "a", 1), shown(1, "a", 2), version=constant)
    assert [one.outcome for one in settled] == [APPLIED] * 2
    assert list(letters(settled)) == [(1, "totals", CONFLICT, True)]
    assert rows == {("totals", "a"): 1, ("labels", "a"): 2}


def test_the_outcome_of_an_event_is_the_outcome_of_its_plain_handler() -> None:
    stale = made(2, "thing.set", "a", version=0, amount=9)
    _, settled = folded(constant, thing_set(1, "a", 5), stale)
    assert [one.outcome for one in settled] == [APPLIED, Outcome.STALE]


@pytest.mark.parametrize(
    ("memory", "rows", "found"),
    [
        ({"left": {"totals"}}, {("labels", "a"): 5}, []),
        ({"held": {"totals": {"a"}}}, {("labels", "a"): 5}, [(0, "totals", WAITING, True)]),
        (
            {"faults": {"totals": EventFault("CheckViolation", "refused")}},
            {("labels", "a"): 5},
            [(0, "totals", DEAD, True)],
        ),
    ],
    ids=["stopped", "entity waits", "refused by Postgres"],
)
def test_a_state_of_one_projection_affects_only_this_projection(
    memory: dict[str, Any], rows: dict[tuple[str, str], int], found: list[Any]
) -> None:
    made_rows, settled = folded(as_it_is, shown(0, "a", 5), **memory)
    assert (made_rows, list(letters(settled))) == (rows, found)
    assert settled[0].outcome is APPLIED
