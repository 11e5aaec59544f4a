"""Small limits for the handlers of one event, and the results of events under these limits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from sluice.db.records import Outcome
from sluice.kafka_io.record_types import Record
from sluice.runtime.handler_mark import RUNNING
from sluice.runtime.handler_watch import limits, main_watch, timed
from sluice.tasks.api import Entity, Event, Topic, handles
from sluice.tasks.events.decode import Decoded
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.plan import Planned, plan_event
from sluice.tasks.fold.registry import collect_modules
from tests.unit.tasks.scripted import folded
from tests.unit.tasks.slow_handlers import EFFECTS, LIMIT, SEEN, SLOW, Effects, quick

BODIES: dict[str, Callable[[], Effects]] = {body.__name__: body for body in [*SLOW, quick]}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "seconds", LIMIT)
    monkeypatch.setattr(limits, "effects", EFFECTS)


@handles("first", "both")
def first(event: Event[Any]) -> Effects:
    yield from BODIES[event.data["first"]]()


@handles("both")
def second(event: Event[Any]) -> Effects:
    yield from BODIES[event.data["second"]]()


@dataclass
class SlowData:
    """Data whose constructor takes a long time."""

    first: str

    def __post_init__(self) -> None:
        time.sleep(1000)


@handles("typed")
def typed(event: Event[SlowData]) -> Effects:
    yield SEEN


def _registry() -> Any:
    module = ModuleType("limited")
    vars(module).update(first=first, second=second, typed=typed)
    vars(module)["topics"] = (Topic("limited", entity=Entity("limited"), on_failure="skip"),)
    return collect_modules([module])


REGISTRY = _registry()


def planned(body: str, *, type: str = "first", second: str = "quick", offset: int = 0) -> Planned:
    data = {"first": body, "second": second}
    event = Event(str(offset), type, f"k{offset}", 1, None, data, "limited", 0, offset)
    decoded = Decoded(
        record=Record(offset, 0, b"k", b"raw", []),
        topic="limited",
        topic_id="id",
        partition=0,
        entity_key=f"k{offset}",
        identity=UUID(int=offset),
        data_hash=UUID(int=0),
        event=event,
        error=None,
        event_id=str(offset),
        type=type,
        source=None,
    )
    return plan_event(REGISTRY, REGISTRY.topics["limited"], decoded)


def outcomes(*events: Planned) -> list[tuple[Outcome | None, EventFault | None]]:
    return [(one.outcome, one.error) for one in folded(*events)[1].settled]


def settled(body: str, **given: Any) -> EventFault | None:
    """Returns the fault of an event that stands between two applied events."""
    with timed("limited.0"):
        bad = planned(body, offset=1, **given)
        before, found, after = outcomes(planned("quick", offset=0), bad, planned("quick", offset=2))
    assert before == after == (Outcome.APPLIED, None)
    assert main_watch.cells[RUNNING] == 0
    assert (found[0] is Outcome.DEAD) is (found[1] is not None)
    return found[1]
