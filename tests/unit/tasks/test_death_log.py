"""The log lines about failed events of a batch, and their fields."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from sluice.db.records import Outcome
from sluice.runtime.log_pace import LOG_SECONDS
from sluice.tasks.api import Event
from sluice.tasks.apply.death_log import DeathLog
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold_state import EventResult, ProjectionLetter
from sluice.tasks.fold.plan import Planned
from tests.unit.tasks.scripted import REGISTRY, folded, scripted


def failing(event: Event[Any]) -> Iterator[Any]:
    yield from ()
    raise RuntimeError(event.id)


@pytest.fixture
def died(monkeypatch: pytest.MonkeyPatch) -> EventResult:
    """An event whose only handler raised."""
    [entry] = REGISTRY.handlers["script"]
    monkeypatch.setitem(REGISTRY.handlers, "script", (dataclasses.replace(entry, function=failing),))
    _, result = folded(scripted(0))
    return result.settled[0]


def test_equal_failures_are_logged_once_a_minute_with_their_count(died: EventResult) -> None:
    now = 0.0
    deaths = DeathLog(clock=lambda: now)
    assert died.error is not None
    other = replace(died, error=EventFault("ValueError", "another error", died.error.at))
    with capture_logs() as lines:
        deaths.note_committed("thing.0", [died] * 5)
        deaths.note_committed("thing.0", [other])
        now += LOG_SECONDS
        deaths.note_committed("thing.0", [died])
    assert [(line["error"].split(":")[0], line.get("more_in_the_last_minute")) for line in lines] == [
        ("RuntimeError", None),
        ("ValueError", None),
        ("RuntimeError", 4),
    ]
    [entry] = REGISTRY.handlers["script"]
    assert lines[0]["handler"] == entry.name
    assert lines[0]["file"] == "tests/unit/tasks/test_death_log.py"
    assert lines[0]["line"] == failing.__code__.co_firstlineno + 2
    assert lines[0]["log_level"] == "warning"


def test_an_event_that_did_not_fail_is_not_logged(died: EventResult) -> None:
    with capture_logs() as lines:
        DeathLog().note_committed(
            "thing.0", [replace(died, outcome=outcome) for outcome in Outcome if outcome is not Outcome.DEAD]
        )
    assert lines == []


@pytest.mark.parametrize("handlers", [0, 1, 2])
def test_an_error_without_a_single_cause_is_logged_with_all_handlers_that_ran(
    handlers: int, died: EventResult
) -> None:
    planned = replace(died.planned, runs=[*died.planned.runs] * handlers)
    refused = EventResult(planned, Outcome.DEAD, EventFault("CheckViolation", "by Postgres"))
    with capture_logs() as lines:
        DeathLog().note_committed("thing.0", [refused])
    [entry] = REGISTRY.handlers["script"]
    assert lines[0].get("handler") == (", ".join([entry.name] * handlers) or None)
    assert ("line" in lines[0]) == (handlers == 1)


def test_the_failure_of_one_projection_is_logged_with_its_name() -> None:
    decoded = scripted(0).decoded
    letters = [
        ProjectionLetter("totals", Outcome.CONFLICT, EventFault("Conflict", "same version"), holds=True),
        ProjectionLetter("labels", Outcome.WAITING, EventFault("Waiting", "behind"), holds=True),
    ]
    with capture_logs() as lines:
        DeathLog().note_committed(
            "thing.0", [EventResult(Planned(decoded), Outcome.APPLIED, letters=letters)] * 3
        )
    [line] = lines
    assert (line["event"], line["projection"]) == ("event failed for a projection", "totals")
    assert line["error"] == "Conflict: same version"
