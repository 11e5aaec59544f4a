"""How one attempt at a call ends on a real Postgres: its state, its error, and the answer that is stored."""

import threading
from typing import Any

import pytest

from sluice.tasks.api import EffectCall
from tests.db.tasks import calling
from tests.db.tasks.calling import NOT_SENT, REFUSED, UNKNOWN, Act, Bench, raises

bench, quiet = calling.bench, calling.quiet


def hang(call: EffectCall) -> Any:
    """A client that takes every error for one of its own."""
    try:
        threading.Event().wait(10)
    except Exception:
        return {"swallowed": True}


@pytest.mark.parametrize(
    ("effect", "acts", "states", "ended_unknown", "error"),
    [
        ("pay", [lambda _: {}], ["succeeded"], False, None),
        ("pay", [NOT_SENT], ["pending"], False, "not sent: NotSent: no route"),
        ("pay", [REFUSED], ["failed"], False, "refused: Refused: broke"),
        ("pay", [UNKNOWN], ["pending"], True, "unknown: OSError: reset"),
        ("mail", [NOT_SENT], ["pending"], False, "not sent: NotSent: no route"),
        ("mail", [UNKNOWN], ["uncertain"], True, "unknown: OSError: reset"),
        ("mail", [NOT_SENT] * 3, ["pending", "pending", "failed"], False, "not sent: NotSent: no route"),
        ("pay", [UNKNOWN, REFUSED], ["pending", "uncertain"], True, "refused: Refused: broke"),
        ("pay", [UNKNOWN, NOT_SENT, NOT_SENT],
            ["pending", "pending", "uncertain"], True, "not sent: NotSent: no route"),
        ("pay", [UNKNOWN, NOT_SENT, lambda _: {}], ["pending", "pending", "succeeded"], True, None),
        ("slow", [hang], ["pending"], True, "unknown: CallTimedOut: no answer within 0.2 s"),
        ("pay", [raises(ValueError("x\0"))], ["pending"], True, "unknown: ValueError: x\ufffd"),
    ],
)  # fmt: skip
def test_how_an_attempt_ends_decides_the_state(
    bench: Bench, effect: str, acts: list[Act], states: list[str], ended_unknown: bool, error: str | None
) -> None:
    bench.add("c", effect=effect)
    found = []
    for act in acts:
        bench.run("c", act)
        found.append(bench.state("c"))
    assert found == states
    assert bench.row("c", "attempt, tried, ended_unknown, error, claimed_until") == (
        len(acts),
        len(acts),
        ended_unknown,
        error,
        None,
    )
    pending = states[-1] == "pending"
    assert bench.row("c", "due_at > now(), settled_at IS NULL") == (pending, pending)
    # Told of it again: not due, or over.
    bench.executor.run("c")
    assert len(bench.called) == len(acts)


def test_a_key_that_is_not_there_or_whose_effect_is_undeclared_is_left(bench: Bench) -> None:
    bench.add("c", effect="elsewhere")
    bench.executor.run("c")
    bench.executor.run("never heard of")
    assert (bench.called, bench.state("c")) == ([], "pending")


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        ({"id": 7}, {"id": 7}),
        (None, None),
        ({"a": "x\0y", "\0": 1}, {"a": "x\ufffdy", "\ufffd": 1}),
        ({"a": "\\u0000"}, {"a": "\\ufffd"}),
        ({"a": "\ud800"}, {"repr": "{'a': '\\ud800'}"}),
        ({(1, 2): 3}, {"repr": "{(1, 2): 3}"}),
        ({"big": 10**40}, {"big": 10**40}),
        (float("inf"), None),
    ],
)
def test_whatever_is_answered_the_success_is_stored(bench: Bench, answer: Any, response: Any) -> None:
    bench.add("c")
    bench.run("c", lambda _: answer)
    assert bench.row("c", "state, response") == ("succeeded", response)


def test_an_answer_that_can_only_be_named_is_a_success_too(bench: Bench) -> None:
    class Sulking:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for key, answer in (("a", Sulking()), ("b", deep), ("c", object())):
        bench.add(key)
        bench.run(key, lambda _, answer=answer: answer)  # type: ignore[misc]
        assert bench.row(key, "state, response ? 'repr'") == ("succeeded", True)
