"""The time limit of the handlers of one event. Its timer interrupts the main thread, which runs the tests."""

import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.records import Outcome
from sluice.runtime.handler_mark import RUNNING
from sluice.runtime.handler_watch import (
    LONGEST_TICK_SECONDS,
    HandlerTimedOut,
    limits,
    main_watch,
    tick_seconds,
    timed,
)
from sluice.tasks.api import Read
from sluice.tasks.fold.handler_steps import iter_effects
from tests.unit.tasks import limited
from tests.unit.tasks.limited import BODIES, outcomes, planned, settled
from tests.unit.tasks.slow_handlers import LIMIT, SEEN, SLOW, Effects

small_limits = limited.small_limits


# On a busy machine, the time may be over during the constructor of a child process.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*Popen:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("body", SLOW, ids=lambda body: body.__name__)
def test_a_time_out_of_a_handler_is_the_fault_of_its_event(body: Callable[[], Effects]) -> None:
    fault = settled(body.__name__)
    assert fault is not None
    assert fault.error_class == HandlerTimedOut.__name__
    assert f"first was stopped: the handlers of this event ran for {LIMIT:g} s" in fault.text
    assert "SLUICE_HANDLER_SECONDS" in fault.text


def test_all_handlers_of_an_event_share_one_time_limit() -> None:
    fault = settled("quick", type="both", second="sleeps")
    assert fault is not None
    assert (fault.error_class, "second was stopped" in fault.text) == (HandlerTimedOut.__name__, True)


def test_the_time_to_construct_the_data_counts() -> None:
    fault = settled("quick", type="typed")
    assert fault is not None
    assert fault.error_class == HandlerTimedOut.__name__


def test_the_time_that_a_handler_waits_for_a_row_does_not_count() -> None:
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


def test_a_time_out_is_raised_only_in_handlers() -> None:
    """The handlers take about the time of the limit; no time-out is raised in the test itself."""
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


def test_a_frozen_process_does_not_time_out() -> None:
    """The limit counts timer ticks, not clock time. After a freeze, the timer fires only one time."""
    main_watch.begin("limited", "id", 0, 0)
    main_watch.cells[RUNNING] = main_watch.number
    try:
        main_watch.note_tick(LIMIT / 2)
        main_watch.note_tick(LIMIT / 2)
        with pytest.raises(HandlerTimedOut):
            main_watch.note_tick(LIMIT / 2)
        main_watch.begin("limited", "id", 0, 1)
        main_watch.cells[RUNNING] = main_watch.number
        main_watch.note_tick(LIMIT / 2)
        assert main_watch.expired != main_watch.number
    finally:
        main_watch.cells[RUNNING] = 0
    main_watch.note_tick(1000)


def test_an_earlier_timer_is_restored_afterwards() -> None:
    """Calls of effects and pytest-timeout use the same signal."""
    function, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with timed("limited.0"):
        assert signal.getsignal(signal.SIGALRM) is not function
        assert signal.getitimer(signal.ITIMER_REAL)[1] == pytest.approx(tick_seconds(LIMIT), rel=0.01)
    assert signal.getsignal(signal.SIGALRM) is function
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) is (timer[0] > 0)


@given(st.floats(0.1, 300))
def test_a_tick_is_short_compared_with_the_limit(limit: float) -> None:
    assert 0 < tick_seconds(limit) <= LONGEST_TICK_SECONDS
    assert 2 * tick_seconds(limit) <= limit / 5
