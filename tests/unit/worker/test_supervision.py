"""The decisions of a supervisor: if a handler ended the worker, and if another worker starts."""

import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime.handler_mark import Mark, WorkerState
from sluice.worker.supervision import (
    FIRST_PAUSE_SECONDS,
    LONGEST_GRACE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    STEADY_SECONDS,
    Decision,
    Ended,
    HandlerClock,
    ProcessTimes,
    decide,
    describe_end,
    pause_seconds,
    usable_seconds,
)

MARK = Mark(7, "order.0", "orders", "id", 2, 40)
STARTING, READY, ENDING = WorkerState
TICK = 0.25
LIMIT = 10.0


def ended(
    exit_code: int,
    state: WorkerState = READY,
    mark: Mark | None = None,
    killed_run: int | None = None,
    ran: float = 5.0,
    *,
    ordered: bool = False,
) -> Ended:
    return Ended(exit_code, state, mark, killed_run, ran, ordered)


ENDS = [
    # (case, end, failures before, exit code or None (another worker), failures, pause, cause in a handler)
    ("refused at start", ended(1, STARTING), 0, 1, 0, 0.0, None),
    ("refused its arguments", ended(2, STARTING), 3, 2, 0, 0.0, None),
    ("printed its help", ended(0, STARTING), 0, 0, 0, 0.0, None),
    ("killed at start", ended(-9, STARTING), 0, None, 1, 1.0, None),
    ("killed at start again", ended(-9, STARTING), 1, None, 2, 2.0, None),
    ("ended by remote control", ended(0, ENDING), 0, 0, 0, 0.0, None),
    ("lost its lease thread", ended(1, ENDING), 0, None, 1, 1.0, None),
    ("failed", ended(1), 2, None, 3, 4.0, None),
    ("failed after a long time", ended(1, ran=STEADY_SECONDS), 6, None, 1, 1.0, None),
    ("exited with code 0 without a reason", ended(0), 0, None, 1, 1.0, None),
    ("killed from outside", ended(-9), 0, None, 1, 1.0, None),
    ("killed in a handler", ended(-9, mark=MARK), 5, None, 6, 0.0, "signal SIGKILL"),
    ("killed in handlers again and again", ended(-9, mark=MARK), 8, None, 9, 4.0, "signal SIGKILL"),
    ("segmentation fault", ended(-11, mark=MARK), 0, None, 1, 0.0, "signal SIGSEGV"),
    ("os._exit(0)", ended(0, mark=MARK), 0, None, 1, 0.0, "exit code 0"),
    ("os._exit(1) in the first batch", ended(1, STARTING, MARK), 0, None, 1, 0.0, "exit code 1"),
    ("over the limit", ended(-9, mark=MARK, killed_run=7), 0, None, 1, 0.0, "killed by its supervisor"),
    ("killed for the previous event", ended(-9, mark=MARK, killed_run=6), 0, None, 1, 0.0, None),
    ("killed after the handler", ended(-9, killed_run=7), 0, None, 1, 0.0, None),
    ("ordered to exit", ended(0, ENDING, ordered=True), 0, 0, 0, 0.0, None),
    ("ordered to exit during its start", ended(-15, STARTING, ordered=True), 0, 143, 0, 0.0, None),
    (
        "ordered to exit, crashed in a handler",
        ended(-11, ENDING, MARK, ordered=True),
        0,
        139,
        0,
        0.0,
        "SIGSEGV",
    ),
]


@pytest.mark.parametrize(
    ("end", "before", "exit_code", "failures", "pause", "how"),
    [c[1:] for c in ENDS],
    ids=[c[0] for c in ENDS],
)
def test_the_supervisor_decides_by_how_the_worker_ended(
    end: Ended, before: int, exit_code: int | None, failures: int, pause: float, how: str | None
) -> None:
    decision = decide(end, before)
    assert decision[1:] == Decision(None, exit_code, failures, pause)[1:]
    if how is None:
        assert decision.death is None
    else:
        assert decision.death is not None
        assert how in decision.death.how
        assert decision.death.mark == MARK
        assert decision.death.timed_out is (end.killed_run is not None)


@given(st.integers(1, 10_000))
def test_pauses_grow_up_to_the_longest_pause(failures: int) -> None:
    assert FIRST_PAUSE_SECONDS <= pause_seconds(failures) <= pause_seconds(failures + 1)
    assert pause_seconds(failures) <= LONGEST_PAUSE_SECONDS


@given(st.integers(-64, 255))
def test_every_exit_code_has_a_description(exit_code: int) -> None:
    assert describe_end(exit_code)


def test_a_signal_without_a_name_is_described_by_its_number() -> None:
    assert describe_end(-250) == "signal 250"


RUNS, SLEEPS = "R", "S"


def ticks_until_over(state: str, cpu_per_tick: float, *, most: int = 1000) -> int | None:
    clock = HandlerClock(LIMIT)
    for tick in range(most):
        if clock.is_over(1, ProcessTimes(state, tick * cpu_per_tick), TICK):
            return tick
    return None


SLOWNESS = [
    ("computes", RUNS, TICK, 1.0),
    ("sleeps or waits", SLEEPS, 0.0, 1.0),
    ("gets half of a processor", RUNS, TICK / 2, 2.0),
    ("gets no processor", RUNS, 0.0, None),
    ("is stopped", "T", 0.0, None),
    ("is traced", "t", 0.0, None),
    ("waits for a disk", "D", 0.0, None),
]


@pytest.mark.parametrize(("state", "cpu", "factor"), [c[1:] for c in SLOWNESS], ids=[c[0] for c in SLOWNESS])
def test_only_time_in_which_the_worker_can_run_counts(state: str, cpu: float, factor: float | None) -> None:
    allowed = (LIMIT + LONGEST_GRACE_SECONDS) / TICK
    assert ticks_until_over(state, cpu) == (None if factor is None else allowed * factor)


def test_all_time_counts_if_the_kernel_reports_no_times() -> None:
    clock = HandlerClock(LIMIT)
    results = [clock.is_over(1, None, TICK) for _ in range(51)]
    assert results.index(True) == (LIMIT + LONGEST_GRACE_SECONDS) / TICK


@given(st.lists(st.integers(0, 3), min_size=1, max_size=400))
def test_a_worker_that_starts_new_runs_is_not_over_its_limit(runs: list[int]) -> None:
    clock = HandlerClock(LIMIT)
    used, last = 0, 0
    for tick, run in enumerate(runs):
        used = used + 1 if run == last and run else 0
        last = run
        over = clock.is_over(run, ProcessTimes(RUNS, tick * TICK), TICK)
        assert over is (run != 0 and used * TICK >= LIMIT + LONGEST_GRACE_SECONDS)


@given(st.sampled_from("RSDTtZIX"), st.floats(-1, 10), st.floats(0, TICK))
def test_no_tick_counts_more_than_its_duration(state: str, cpu: float, tick: float) -> None:
    assert 0 <= usable_seconds(ProcessTimes(state, 0.0), cpu, tick) <= tick


def test_a_short_limit_has_a_short_grace() -> None:
    clock = HandlerClock(0.5)
    results = [clock.is_over(1, None, TICK) for _ in range(6)]
    assert results.index(True) == 4


def test_a_signal_is_described_by_its_name() -> None:
    assert describe_end(-signal.SIGSEGV) == "signal SIGSEGV"


def test_a_supervisor_imports_neither_celery_nor_clients_of_kafka() -> None:
    """Each worker has a supervisor, so the memory of the supervisor is needed for each worker."""
    heavy = {"celery", "kombu", "confluent_kafka", "kafka", "examples"}
    printed = f"import sys, sluice.worker.supervisor; print(*sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", printed], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
