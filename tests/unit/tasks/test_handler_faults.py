"""The fault of an error in a handler names handler, file and line, and has a bounded traceback."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sluice.tasks.api import Event, Read, Upsert
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.handler_faults import MAX_FRAMES, MAX_TRACEBACK_CHARACTERS
from tests.unit.tasks.scripted import INTEGER, REGISTRY, folded, scripted

SECRET = "the value of a customer"
FILE = "tests/unit/tasks/test_handler_faults.py"


def _fail() -> None:
    raise RuntimeError(SECRET)  # the deepest line


def _recurse(depth: int) -> None:
    if depth:
        _recurse(depth - 1)
    raise RuntimeError(SECRET)


def _inner(event: Event[Any]) -> Iterator[Any]:
    yield Upsert(INTEGER, "k", {"no such column": SECRET}, version=1)  # refused here


class Hostile(Exception):
    """An exception whose attributes raise."""

    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise ValueError("no cause")


def raises(event: Event[Any]) -> Iterator[Any]:
    yield from ()
    raise RuntimeError(SECRET)  # in the handler


def calls(event: Event[Any]) -> Iterator[Any]:
    yield from ()
    _fail()


def reads(event: Event[Any]) -> Iterator[Any]:
    yield Read(INTEGER, "k")
    raise RuntimeError(SECRET)  # with rows


def chained(event: Event[Any]) -> Iterator[Any]:
    yield from ()
    try:
        dict[str, str]()[SECRET]  # the cause
    except KeyError as error:
        raise ValueError(SECRET) from error  # from a cause


def refused(event: Event[Any]) -> Iterator[Any]:
    yield from _inner(event)  # around it


def without_type(event: Event[Any]) -> Iterator[Any]:
    yield from ()
    print(event.data.place)


def recursing(event: Event[Any]) -> Iterator[Any]:
    yield from ()
    _recurse(400)  # deep


def hostile(event: Event[Any]) -> Iterator[Any]:
    yield from ()
    raise Hostile(SECRET)


def _line(comment: str) -> int:
    with open(__file__) as file:
        return next(n for n, line in enumerate(file, 1) if line.rstrip().endswith(f"# {comment}"))


def fault_of(handler: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> EventFault:
    """Returns the fault of an event that this handler handles."""
    [entry] = REGISTRY.handlers["script"]
    monkeypatch.setitem(REGISTRY.handlers, "script", (replace(entry, function=handler),))
    _, result = folded(scripted(0))
    fault = result.settled[0].error
    assert fault is not None
    return fault


@pytest.mark.parametrize(
    ("handler", "line", "functions"),
    [
        (raises, "in the handler", ["raises"]),
        (calls, "the deepest line", ["calls", "_fail"]),
        (reads, "with rows", ["reads"]),
        (chained, "from a cause", ["chained"]),
        (refused, "refused here", ["refused", "_inner"]),
    ],
)
def test_a_fault_names_the_handler_the_file_and_the_line(
    handler: Callable[..., Any], line: str, functions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = fault_of(handler, monkeypatch)
    assert fault.at is not None
    [entry] = REGISTRY.handlers["script"]
    assert fault.at == (entry.name, FILE, _line(line))
    assert [
        text.rpartition(" in ")[2] for text in fault.traceback.splitlines() if "File " in text
    ] == functions


@pytest.mark.parametrize("handler", [raises, calls, reads, chained, refused, recursing])
def test_a_traceback_contains_no_values_and_is_bounded(
    handler: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = fault_of(handler, monkeypatch)
    assert SECRET not in fault.traceback
    assert 0 < len(fault.traceback) <= MAX_TRACEBACK_CHARACTERS
    # No frames of Sluice, which runs the handler.
    assert "sluice/" not in fault.traceback
    assert "handler_steps" not in fault.traceback


def test_a_long_traceback_keeps_the_most_recent_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = fault_of(recursing, monkeypatch)
    assert fault.at is not None
    frames = [text for text in fault.traceback.splitlines() if "File " in text]
    assert 5 < len(frames) <= MAX_FRAMES
    assert f"{402 - len(frames)} earlier frames left out" in fault.traceback
    assert fault.traceback.splitlines()[-1].strip() == "raise RuntimeError(SECRET)"


def test_a_traceback_with_long_frames_keeps_the_most_recent_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def recurse(depth):\n    if depth: recurse(depth - 1)\n    raise RuntimeError(depth)"
    names: dict[str, Any] = {}
    exec(compile(source, f"/{'f' * 300}.py", "exec"), names)

    def deep(event: Event[Any]) -> Iterator[Any]:
        yield from ()
        names["recurse"](100)

    fault = fault_of(deep, monkeypatch)
    frames = [text for text in fault.traceback.splitlines() if "File " in text]
    assert 5 < len(frames) < MAX_FRAMES
    assert len(fault.traceback) <= MAX_TRACEBACK_CHARACTERS
    assert frames[-1].endswith("line 3, in recurse")
    assert f"{102 - len(frames)} earlier frames left out" in fault.traceback


def test_a_traceback_names_the_cause_with_its_file_and_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = fault_of(chained, monkeypatch)
    assert fault.traceback.splitlines()[-1] == f'Caused by KeyError at "{FILE}", line {_line("the cause")}'


def test_an_error_whose_attributes_raise_still_names_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = fault_of(hostile, monkeypatch)
    assert (fault.error_class, fault.traceback) == ("Hostile", "")
    assert fault.at is not None
    assert (fault.at.file, fault.at.line) == (FILE, hostile.__code__.co_firstlineno)


def test_an_attribute_of_data_without_a_type_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault_of(without_type, monkeypatch).text == (
        "'dict' object has no attribute 'place'; write ['place'], or declare the type of the data, as in"
        " Event[OrderPlaced]"
    )


def test_an_error_that_is_raised_for_two_events_has_the_frames_of_one_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = RuntimeError(SECRET)

    def same(event: Event[Any]) -> Iterator[Any]:
        yield from ()
        raise kept

    first, second = fault_of(same, monkeypatch), fault_of(same, monkeypatch)
    assert first.traceback == second.traceback != ""
    assert kept.__traceback__ is None
