"""An error that a handler raises is the fault of its event, unless the error ends the worker process."""

import asyncio
import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import WorkerShutdown, WorkerTerminate

from sluice.db.errors import DeploymentBroken
from sluice.db.records import Outcome
from sluice.tasks.api import Emit, Event, Increment, Insert, Read
from sluice.tasks.fold.fold_state import Conflict, LoadFailed
from tests.unit.tasks.running import DATA, app, run, sent, things


class Own(BaseException):
    """An exception class of a handler."""


class Textless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Numbered(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class EndsInText(Exception):
    def __str__(self) -> str:
        raise SystemExit("text")


RAISED: list[BaseException] = [
    ValueError("x"), SystemExit(1), SystemExit(), GeneratorExit(), ImportError("no", name="nowhere"),
    ModuleNotFoundError("no"), RecursionError("deep"), MemoryError(), asyncio.CancelledError(), Own("x"),
    StopIteration(1), StopAsyncIteration(), DeploymentBroken("x"), LoadFailed(ValueError("x")),
    Conflict("x"),
    AssertionError(), Textless(), Numbered(), EndsInText(),
    ValueError("long" * 10**6), ValueError("\0\ud800"),
    BaseExceptionGroup("x", [Own()]), TimeoutError(), ConnectionError(),
]  # fmt: skip


@pytest.mark.parametrize("reads", [False, True], ids=["first run", "run with rows"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_an_error_that_a_handler_raises_is_the_events_fault(error: BaseException, reads: bool) -> None:
    def raising(event: Event[Any]) -> Iterator[Any]:
        if reads:
            yield Read(things, "k")
        if event.offset == 1:
            raise error
        yield Emit("out", "k", "t", event.offset)

    result = run(app(raising), DATA, DATA, DATA)
    assert [one.outcome for one in result.settled] == [Outcome.APPLIED, Outcome.DEAD, Outcome.APPLIED]
    assert sent(result) == [0, 2]
    wanted = "RuntimeError" if isinstance(error, StopIteration) else type(error).__name__
    fault = result.settled[1].error
    assert fault is not None
    assert fault.error_class == wanted
    assert len(fault.text) <= 2_000


def _recursing(event: Event[Any]) -> Iterator[Any]:
    yield from _recursing(event)


def _running(event: Event[Any]) -> Iterator[Any]:
    next(frame for frame in gc.get_referrers(sys._getframe()) if hasattr(frame, "gi_frame")).send(None)
    yield


def _closing(event: Event[Any]) -> Iterator[Any]:
    try:
        yield Read(things, "k")
        yield Increment(things, "k", {"count": -1}, floor=0)
    finally:
        raise Own("at its end")


@pytest.mark.parametrize(
    ("function", "error_class"),
    [(_recursing, "RecursionError"), (_running, "ValueError"), (_closing, "Own")],
)
def test_an_error_of_a_misused_generator_is_the_events_fault(function: Any, error_class: str) -> None:
    [settled] = run(app(function)).settled
    assert settled.error is not None
    assert (settled.outcome, settled.error.error_class) == (Outcome.DEAD, error_class)


# Python reports a generator that cannot be closed when it discards the generator.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_handler_that_the_gate_cannot_end_is_the_events_fault() -> None:
    def endless(event: Event[Any]) -> Iterator[Any]:
        yield Read(things, "k")
        while True:
            try:
                yield Increment(things, "k", {"count": -1}, floor=0)
            except GeneratorExit:
                continue

    [settled] = run(app(endless)).settled
    assert settled.outcome is Outcome.DEAD
    assert "ignored GeneratorExit" in str(settled.error)
    del settled
    gc.collect()


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), WorkerShutdown(0), WorkerTerminate(1)], ids=repr)
def test_an_exception_that_ends_the_worker_is_not_caught(error: BaseException, reads: bool) -> None:
    def raising(event: Event[Any]) -> Iterator[Any]:
        if reads:
            yield Read(things, "k")
        if event.offset == 0:
            raise error

    with pytest.raises(type(error)):
        run(app(raising))


def test_a_system_exit_from_the_pools_signal_handler_is_not_caught() -> None:
    """On SIGTERM, the signal handler of a pool process raises SystemExit in the code that runs."""
    from billiard.common import _should_have_exited, _shutdown_cleanup

    def interrupted(event: Event[Any]) -> Iterator[Any]:
        _shutdown_cleanup(0, None)
        yield

    try:
        with pytest.raises(SystemExit):
            run(app(interrupted))
    finally:
        _should_have_exited[0] = False


@pytest.mark.parametrize("reads", [False, True])
def test_a_refused_effect_names_file_and_line_of_the_yield(reads: bool) -> None:
    def inner() -> Iterator[Any]:
        yield Insert(things, "k", {})
        yield Insert(things, 7, {})  # type: ignore[arg-type]

    def outer(event: Event[Any]) -> Iterator[Any]:
        if reads:
            yield Read(things, "k")
        yield from inner()

    [settled] = run(app(outer)).settled
    assert settled.error is not None
    assert settled.error.error_class == "EffectRefused"
    line = inner.__code__.co_firstlineno + 2
    place = f"tests/unit/tasks/test_handler_errors.py:{line}"
    assert settled.error.text == f"{place}: things.id: int 7 is no text"


def test_an_invalid_effect_after_the_gate_is_never_reached() -> None:
    def gated(event: Event[Any]) -> Iterator[Any]:
        yield Increment(things, "k", {"count": -1}, floor=0)
        yield None

    [settled] = run(app(gated)).settled
    assert settled.outcome is Outcome.APPLIED
