"""A handler that makes an effect without `yield` is refused at start, with the file and line."""

import functools
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, String

import sluice
from sluice import Effect, Emit, Entity, Event, Increment, Topic, entity_table, handles
from sluice import Increment as Add
from sluice.tasks.fold.registry import HandlersRefused, collect_modules

counted = entity_table(
    "counted",
    MetaData(),
    Column("id", String, primary_key=True),
    Column("seen", BigInteger, default=0),
    counters=("seen",),
)


def beside_a_yield(event: Event[Any]) -> Iterator[Effect]:
    yield Emit("out", event.key, "seen", {})
    if event.data:
        Increment(counted, event.key, {"seen": 1})  # lost


def under_another_name(event: Event[Any]) -> Iterator[Effect]:
    Add(counted, event.key, {"seen": 1})  # lost
    yield Emit("out", event.key, "seen", {})


def by_its_module(event: Event[Any]) -> Iterator[Effect]:
    sluice.Increment(counted, event.key, {"seen": 1})  # lost
    yield Emit("out", event.key, "seen", {})


def of_several_lines(event: Event[Any]) -> Iterator[Effect]:
    """A handler with text

    that is not indented, and a call of several lines.
    """
    yield Emit("out", event.key, "seen", {})
    Increment(  # lost
        counted,
        event.key,
        {"seen": 1},
    )


def returned(event: Event[Any]) -> Any:
    yield Emit("out", event.key, "seen", {})
    return Increment(counted, event.key, {"seen": 1})  # lost


def returned_alone(event: Event[Any]) -> Any:
    return Increment(counted, event.key, {"seen": 1})  # lost


def _count(event: Event[Any]) -> Iterator[Effect]:
    yield Emit("out", event.key, "seen", {})
    Increment(counted, event.key, {"seen": 1})  # lost


def through_a_helper(event: Event[Any]) -> Iterator[Effect]:
    yield from _count(event)


def _made(event: Event[Any]) -> Increment:
    return Increment(counted, event.key, {"seen": 1})


def correct(event: Event[Any]) -> Iterator[Effect]:
    def inner() -> Emit:
        return Emit("out", event.key, "seen", {})

    print(end="")
    later = Emit("out", event.key, "later", {})
    yield from (inner(), _made(event), later)
    return None


def _nested() -> Any:
    def nested(event: Event[Any]) -> Iterator[Effect]:
        text = """of two
lines"""
        yield Emit("out", event.key, text, {})
        Increment(counted, event.key, {"seen": 1})  # lost

    return nested


def own_class_of_that_name(event: Event[Any]) -> Iterator[Effect]:
    Increment = dict
    Increment(seen=1)
    yield Emit("out", event.key, "seen", {})


def collected(function: Any) -> None:
    module = ModuleType("made_up")
    vars(module).update(topics=(Topic("things", entity=Entity("thing", 2)),), made=handles("a")(function))
    try:
        collect_modules([module])
    finally:
        vars(function).pop("__sluice__")


@pytest.mark.parametrize(
    ("function", "written"),
    [
        (beside_a_yield, "Increment(...) is made and not yielded"),
        (under_another_name, "Add(...) is made and not yielded"),
        (by_its_module, "sluice.Increment(...) is made and not yielded"),
        (of_several_lines, "Increment(...) is made and not yielded"),
        (_nested(), "Increment(...) is made and not yielded"),
        (returned, "Increment(...) is returned and not yielded"),
        (returned_alone, "Increment(...) is returned and not yielded"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_an_effect_that_is_not_yielded_is_refused_with_its_line(function: Any, written: str) -> None:
    expect(function, function, written)


def test_an_effect_in_a_function_that_the_handler_runs_is_refused() -> None:
    expect(through_a_helper, _count, "Increment(...) is made and not yielded")


def expect(handler: Any, at_fault: Any, written: str) -> None:
    lines, first = inspect.getsourcelines(at_fault)
    [line] = [number for number, line in enumerate(lines, first) if "# lost" in line]
    with pytest.raises(HandlersRefused) as refused:
        collected(handler)
    assert str(refused.value).startswith(f"tests/unit/tasks/test_unyielded.py:{line}: {written}")


@pytest.mark.parametrize("function", [correct, own_class_of_that_name], ids=lambda given: given.__name__)
def test_other_calls_are_accepted(function: Any) -> None:
    collected(function)


def test_the_line_of_a_decorated_handler_is_exact() -> None:
    with pytest.raises(HandlersRefused) as refused:
        collected(plainly_decorated)
    first = inspect.getsourcelines(plainly_decorated)[1]
    assert str(refused.value).startswith(f"tests/unit/tasks/test_unyielded.py:{first + 2}: ")


def _same(function: Any) -> Any:
    return function


@functools.partial(_same)
def plainly_decorated(event: Event[Any]) -> Iterator[Effect]:
    Increment(counted, event.key, {"seen": 1})
    yield Emit("out", event.key, "seen", {})


def test_a_handler_without_a_source_is_accepted() -> None:
    names: dict[str, Any] = {"Increment": Increment, "counted": counted}
    exec("def handler(event):\n    Increment(counted, event.key, {'seen': 1})\n    yield None", names)
    collected(names["handler"])
