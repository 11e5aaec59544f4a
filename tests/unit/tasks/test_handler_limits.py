"""Limits of the handlers of one event. The timer interrupts the main thread, in which pytest runs tests."""

import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.records import Outcome
from sluice.kafka_io.record_types import Record
from sluice.runtime.handler_mark import RUNNING
from sluice.runtime.handler_watch import (
    LONGEST_TICK_SECONDS,
    HandlerTimedOut,
    limits,
    main_watch,
    tick_seconds,
    timed,
)
from sluice.runtime.place import EventPlace
from sluice.tasks.api import Effect, Emit, Entity, Event, Increment, Read, Topic, handles
from sluice.tasks.events.decode import Decoded
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.handler_steps import iter_effects
from sluice.tasks.fold.plan import Planned, plan_event
from sluice.tasks.fold.registry import collect_modules
from tests.unit.tasks.scripted import INTEGER, folded

LIMIT = 0.1
EFFECTS = 50
SEEN = Emit("seen", key=None, type="seen", data={})
Effects = Iterator[Effect]


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "seconds", LIMIT)
    monkeypatch.setattr(limits, "effects", EFFECTS)


def computes() -> Effects:
    while EFFECTS:
        pass
    yield SEEN


def computes_between_effects() -> Effects:
    yield SEEN
    while True:
        pass


def sleeps() -> Effects:
    time.sleep(1000)
    yield SEEN


def matches() -> Effects:
    re.match(r"(a+)+$", "a" * 40 + "b")
    yield SEEN


def waits_for_a_lock() -> Effects:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
    yield SEEN


def joins_a_thread() -> Effects:
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait)
    thread.start()
    try:
        thread.join()
    finally:
        may_end.set()
    yield SEEN


def waits_for_a_thread() -> Effects:
    threading.Event().wait()
    yield SEEN


def reads_a_socket() -> Effects:
    near, far = socket.socketpair()
    with near, far:
        near.recv(1)
    yield SEEN


def waits_for_a_child() -> Effects:
    import subprocess

    with subprocess.Popen(["sleep", "1000"]) as child:
        try:
            child.wait()
        finally:
            child.kill()
    yield SEEN


def recurses_for_ever() -> Effects:
    def count(depth: int) -> int:
        return sum(count(depth - 1) for _ in range(1000)) if depth else 0

    count(100)
    yield SEEN


def swallows_once() -> Effects:
    with suppress(BaseException):
        time.sleep(1000)
    yield SEEN


def swallows_often() -> Effects:
    for _ in range(5):
        with suppress(BaseException):
            time.sleep(1000)
    yield SEEN


def takes_long_to_end() -> Effects:
    try:
        yield SEEN
        yield SEEN
    finally:
        time.sleep(1000)


def takes_long_to_close() -> Effects:
    try:
        yield Read(INTEGER, "k")
    finally:
        time.sleep(1000)


def takes_long_together() -> Effects:
    for _ in range(40):
        time.sleep(LIMIT / 10)
        yield SEEN


def yields_slow_effects() -> Effects:
    yield Increment(INTEGER, "k", {"count": 1}, floor=0, otherwise=slow_effects())


def slow_effects() -> Any:
    time.sleep(1000)
    yield SEEN


def after_reading() -> Effects:
    yield Read(INTEGER, "k")
    time.sleep(1000)
    yield SEEN


def quick() -> Effects:
    yield SEEN


SLOW = [
    computes,
    computes_between_effects,
    sleeps,
    matches,
    waits_for_a_lock,
    joins_a_thread,
    waits_for_a_thread,
    reads_a_socket,
    waits_for_a_child,
    recurses_for_ever,
    swallows_once,
    swallows_often,
    takes_long_to_end,
    takes_long_to_close,
    takes_long_together,
    yields_slow_effects,
    after_reading,
]
BODIES: dict[str, Callable[[], Effects]] = {body.__name__: body for body in [*SLOW, quick]}


@handles("first", "both")
def first(event: Event[Any]) -> Effects:
    yield from BODIES[event.data["first"]]()


@handles("both")
def second(event: Event[Any]) -> Effects:
    yield from BODIES[event.data["second"]]()


@dataclass
class SlowData:
    """Data that takes long to be made."""

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
    """The fault of an event between two that are applied."""
    with timed("limited.0"):
        bad = planned(body, offset=1, **given)
        before, found, after = outcomes(planned("quick", offset=0), bad, planned("quick", offset=2))
    assert before == after == (Outcome.APPLIED, None)
    assert main_watch.cells[RUNNING] == 0
    assert (found[0] is Outcome.DEAD) is (found[1] is not None)
    return found[1]


@pytest.mark.parametrize("body", SLOW, ids=lambda body: body.__name__)
def test_a_handler_over_its_time_is_the_fault_of_its_event(body: Callable[[], Effects]) -> None:
    fault = settled(body.__name__)
    assert fault is not None
    assert fault.error_class == HandlerTimedOut.__name__
    assert f"first was stopped: the handlers of this event ran for {LIMIT:g} s" in fault.text
    assert "SLUICE_HANDLER_SECONDS" in fault.text


def test_all_handlers_of_an_event_share_its_time() -> None:
    fault = settled("quick", type="both", second="sleeps")
    assert fault is not None
    assert (fault.error_class, "second was stopped" in fault.text) == (HandlerTimedOut.__name__, True)


def test_data_that_takes_long_to_be_made_counts() -> None:
    fault = settled("quick", type="typed")
    assert fault is not None
    assert fault.error_class == HandlerTimedOut.__name__


@pytest.mark.parametrize(
    ("effects", "is_dead"), [(EFFECTS - 1, False), (EFFECTS, False), (EFFECTS + 1, True), (None, True)]
)
@pytest.mark.parametrize("reads", [False, True])
def test_effects_are_counted(
    effects: int | None, is_dead: bool, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> Effects:
        count = 0
        if reads:
            count += 1
            yield Read(INTEGER, "k")
        while count != effects:
            count += 1
            yield SEEN

    monkeypatch.setitem(BODIES, "many", body)
    fault = settled("many")
    assert (fault is not None) is is_dead
    if fault is not None:
        assert fault.error_class == "TooManyEffects"
        assert f"may yield {EFFECTS} (SLUICE_HANDLER_EFFECTS)" in fault.text


def test_effects_of_all_handlers_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> Effects:
        yield from [SEEN] * (EFFECTS // 2 + 1)

    monkeypatch.setitem(BODIES, "many", body)
    fault = settled("many", type="both", second="many")
    assert fault is not None
    assert fault.error_class == "TooManyEffects"


def test_effects_are_counted_in_every_thread() -> None:
    found: list[Any] = []

    def run() -> None:
        found.extend(outcomes(planned("quick"), planned("endless", offset=1)))

    BODIES["endless"] = lambda: iter(lambda: SEEN, None)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        del BODIES["endless"]
    (first_outcome, _), (second_outcome, fault) = found
    assert (first_outcome, second_outcome) == (Outcome.APPLIED, Outcome.DEAD)
    assert fault.error_class == "TooManyEffects"


def test_the_clock_stands_still_while_the_handler_waits_for_a_row() -> None:
    """A row that is loaded slowly is not the handler's fault."""
    with timed("limited.0"):
        event = planned("after_reading")
        [run] = event.runs
        assert run.reads
        steps = iter_effects(run.entry, run.event)
        assert isinstance(next(steps), Read)
        until = time.monotonic() + 3 * LIMIT
        while time.monotonic() < until:
            pass
        assert main_watch.cells[RUNNING] == 0
        steps.close()


def test_a_time_out_is_raised_in_handlers_alone() -> None:
    """Handlers that take about their time: whether they are in time or not, nothing is raised here."""
    limits.seconds = 0.02
    with timed("limited.0"):
        for number in range(60):
            pause = 0.018 + number % 5 * 0.002
            BODIES["about"] = lambda pause=pause: _pause(pause)  # type: ignore[misc]
            [(outcome, _)] = outcomes(planned("about", offset=number))
            assert outcome in (Outcome.APPLIED, Outcome.DEAD)
    del BODIES["about"]


def _pause(seconds: float) -> Effects:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    yield SEEN


def test_a_frozen_process_is_not_over_its_time() -> None:
    """A timer that fires late fires once: what counts are its ticks."""
    main_watch.begin(EventPlace("limited", "id", 0, 0))
    main_watch.cells[RUNNING] = main_watch.number
    try:
        main_watch.note_tick(LIMIT / 2)
        main_watch.note_tick(LIMIT / 2)
        with pytest.raises(HandlerTimedOut):
            main_watch.note_tick(LIMIT / 2)
        main_watch.begin(EventPlace("limited", "id", 0, 1))
        main_watch.cells[RUNNING] = main_watch.number
        main_watch.note_tick(LIMIT / 2)
        assert main_watch.expired != main_watch.number
    finally:
        main_watch.cells[RUNNING] = 0
    main_watch.note_tick(1000)


def test_the_timer_of_others_goes_on_afterwards() -> None:
    """Calls of effects use the same signal, and so does pytest-timeout."""
    function, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with timed("limited.0"):
        assert signal.getsignal(signal.SIGALRM) is not function
        assert signal.getitimer(signal.ITIMER_REAL)[1] == pytest.approx(tick_seconds(LIMIT), rel=0.01)
    assert signal.getsignal(signal.SIGALRM) is function
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) is (timer[0] > 0)


@given(st.floats(0.1, 300))
def test_a_tick_is_short_beside_the_limit(limit: float) -> None:
    assert 0 < tick_seconds(limit) <= LONGEST_TICK_SECONDS
    assert 2 * tick_seconds(limit) <= limit / 5
