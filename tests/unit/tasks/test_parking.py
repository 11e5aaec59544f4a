"""A failed event parks its entity: later events of this entity wait. Events of other entities do not."""

import pytest
from msgspec.structs import replace as changed

from sluice.db.records import Outcome
from sluice.tasks.api import Upsert
from sluice.tasks.events.decode import DecodeError
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import FoldState
from sluice.tasks.fold.plan import Planned
from tests.unit.tasks.scripted import INTEGER, fresh_memory, scripted

APPLIED, CONFLICT, DEAD = Outcome.APPLIED, Outcome.CONFLICT, Outcome.DEAD
DUPLICATE, IGNORED, WAITING = Outcome.DUPLICATE, Outcome.IGNORED, Outcome.WAITING
BROKEN = RuntimeError("x")


def of(key: str | None, planned: Planned, *, parks: bool = True) -> Planned:
    """Moves the event to another entity, whose topic parks or does not park."""
    planned.decoded, planned.parks = changed(planned.decoded, entity_key=key), parks
    return planned


def write(offset: int, key: str | None, **more: object) -> Planned:
    values = {"a": str(offset), "b": 7}
    return of(key, scripted(offset, Upsert(INTEGER, f"row-{key}", values, offset), **more))  # type: ignore[arg-type]


def death(offset: int, key: str | None, *, parks: bool = True) -> Planned:
    return of(key, scripted(offset, BROKEN), parks=parks)


@pytest.mark.parametrize(
    ("events", "outcomes"),
    [
        ([death(0, "a"), write(1, "a"), write(2, "a")], [DEAD, WAITING, WAITING]),
        ([death(0, "a"), write(1, "b")], [DEAD, APPLIED]),
        ([write(0, "a"), death(1, "a"), write(2, "a")], [APPLIED, DEAD, WAITING]),
        # An event that would fail waits like any other event.
        ([death(0, "a"), death(1, "a")], [DEAD, WAITING]),
        ([death(0, "a", parks=False), write(1, "a")], [DEAD, APPLIED]),
        # Without an entity, nothing is parked.
        ([death(0, None), write(1, None)], [DEAD, APPLIED]),
        ([of("a", scripted(0, error=DecodeError("x"))), write(1, "a")], [DEAD, WAITING]),
        ([death(0, "a"), of("a", scripted(1, type="script.ignored"))], [DEAD, IGNORED]),
        # A repeat of the failed event, or of a waiting event, is a duplicate.
        ([death(0, "a"), of("a", scripted(1, BROKEN, identity=1_000))], [DEAD, DUPLICATE]),
        ([death(0, "a"), write(1, "a"), write(2, "a", identity=1_001)], [DEAD, WAITING, DUPLICATE]),
        # A conflict is listed, but does not park its entity.
        (
            [write(0, "a"), write(1, "a", identity=1_000, content=9), write(2, "a")],
            [APPLIED, CONFLICT, APPLIED],
        ),
    ],
)
def test_events_behind_a_failed_event_of_their_entity_wait(
    events: list[Planned], outcomes: list[Outcome]
) -> None:
    assert [settled.outcome for settled in fold(events, fresh_memory()).settled] == outcomes


def test_a_parked_entity_stays_parked_in_the_next_batch() -> None:
    memory = fresh_memory()
    memory.parked.add("a")
    result = fold([write(0, "a"), write(1, "b")], memory)
    assert [settled.outcome for settled in result.settled] == [WAITING, APPLIED]
    assert not result.parked, "the entity was already parked"


def test_a_waiting_event_changes_nothing_and_has_the_reason() -> None:
    memory: FoldState = fresh_memory()
    result = fold([death(0, "a"), write(1, "a")], memory)
    assert not memory.rows
    assert result.parked == [("a", "RuntimeError: x")]
    assert result.settled[1].error == EventFault("Waiting", "its entity is parked")
