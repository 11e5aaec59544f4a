"""An event fault keeps the class and the text of an error, but no frames and no payload."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sluice.db.values import MAX_ERROR_CHARACTERS
from sluice.tasks.api import Read
from sluice.tasks.events.event_fault import MAX_CLASS_CHARACTERS, EventFault
from tests.unit.tasks.scripted import INTEGER, REGISTRY, folded, scripted


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Payload(dict[str, Any]):
    """A dict that supports weak references."""


CASES: list[tuple[str, BaseException, str, str]] = [
    ("a text", ValueError("why"), "ValueError", "why"),
    ("no text", KeyboardInterrupt(), "KeyboardInterrupt", ""),
    ("a long text", ValueError("x" * 5_000), "ValueError", "x" * MAX_ERROR_CHARACTERS),
    ("a long class name", type("N" * 5_000, (Exception,), {})("x"), "N" * MAX_CLASS_CHARACTERS, "x"),
    ("NUL and a lone surrogate", ValueError("a\0b\ud800c"), "ValueError", "a\ufffdb?c"),
    ("a text that raises", Mute(), "Mute", "the error has no text: RuntimeError"),
]


@pytest.mark.parametrize(("error", "name", "text"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_class_and_text_of_an_error_are_kept_bounded_and_printable(
    error: BaseException, name: str, text: str
) -> None:
    assert EventFault.of(error) == EventFault(name, text)


@pytest.mark.parametrize("reads", [False, True], ids=["in the first run", "with rows"])
def test_no_frame_of_a_handler_outlives_its_event(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Payload]] = []
    [entry] = REGISTRY.handlers["script"]

    def failing(event: Any) -> Iterator[Any]:
        payload = Payload(large="x")
        held.append(weakref.ref(payload))
        if reads:
            yield Read(INTEGER, "k")
        raise RuntimeError("a fault in the handler")

    monkeypatch.setitem(REGISTRY.handlers, "script", (replace(entry, function=failing),))
    gc.disable()
    try:
        _, result = folded(scripted(0))
        assert result.settled[0].error == EventFault("RuntimeError", "a fault in the handler")
        assert held
        assert [reference() for reference in held] == [None] * len(held)
    finally:
        gc.enable()
