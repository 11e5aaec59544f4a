"""The end of one attempt of a call on a real Postgres: its state, its error and the stored answer."""

import threading
from asyncio import CancelledError
from datetime import timedelta
from typing import Any

import pytest
import structlog

from sluice.tasks.api import EffectCall, NotSent
from tests.db.tasks import calling
from tests.db.tasks.calling import NOT_SENT, REFUSED, UNKNOWN, Act, Bench, raises

bench, quiet = calling.bench, calling.quiet


class Wordless(Exception):
    """A user's error that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def hang(call: EffectCall) -> Any:
    """Waits. Catches every error while it waits, as a careless client does."""
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
        # After an error of any class, and after an error that cannot be printed, the worker continues.
        ("mail", [raises(SystemExit(3))], ["uncertain"], True, "unknown: SystemExit: 3"),
        ("mail", [raises(GeneratorExit())], ["uncertain"], True, "unknown: GeneratorExit: "),
        ("mail", [raises(CancelledError())], ["uncertain"], True, "unknown: CancelledError: "),
        ("mail", [raises(Wordless())], ["uncertain"], True,
            "unknown: Wordless: the error has no text: RuntimeError"),
    ],
)  # fmt: skip
def test_the_end_of_an_attempt_decides_the_state(
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
    # A repeated message changes nothing, because the call is not due or has ended.
    bench.executor.run("c")
    assert len(bench.called) == len(acts)


BUSY = raises(NotSent("429", retry_after=30))


@pytest.mark.parametrize(
    ("effect", "acts", "state", "tried", "ended_unknown"),
    [
        # An answer with retry_after never uses up one of the three attempts.
        ("pay", [BUSY] * 9, "pending", 0, False),
        ("mail", [BUSY] * 9, "pending", 0, False),
        ("pay", [*[BUSY] * 5, lambda _: {}], "succeeded", 1, False),
        ("pay", [*[BUSY] * 5, REFUSED], "failed", 1, False),
        # Other answers use up an attempt.
        ("pay", [NOT_SENT, BUSY, NOT_SENT, BUSY, BUSY], "pending", 2, False),
        ("pay", [NOT_SENT, BUSY, NOT_SENT, BUSY, NOT_SENT], "failed", 3, False),
        ("pay", [UNKNOWN, BUSY, BUSY, NOT_SENT, BUSY, NOT_SENT], "uncertain", 3, True),
        ("mail", [BUSY, BUSY, UNKNOWN], "uncertain", 1, True),
    ],
)
def test_an_attempt_with_retry_after_does_not_count(
    bench: Bench, effect: str, acts: list[Act], state: str, tried: int, ended_unknown: bool
) -> None:
    bench.add("c", effect=effect)
    for act in acts:
        assert bench.state("c") == "pending"
        bench.run("c", act)
    assert len(bench.called) == len(acts)
    found = bench.row("c", "state, attempt, tried, ended_unknown")
    assert found == (state, len(acts), tried, ended_unknown)


@pytest.mark.parametrize(
    ("given", "due_in", "why"),
    [
        (30, 30, "not sent, retry after 30 s: NotSent: 429"),
        (timedelta(hours=1), 3_600, "not sent, retry after 3600 s: NotSent: 429"),
        (0, 1, "not sent, retry after 1 s: NotSent: 429"),
        (10**9, 86_400, "not sent, retry after 86400 s: NotSent: 429"),
        # These values are not durations. The usual backoff applies, and the attempt counts.
        (-5, None, "not sent: NotSent: 429"),
        ("30", None, "not sent: NotSent: 429"),
        (float("nan"), None, "not sent: NotSent: 429"),
    ],
)
def test_a_call_is_due_again_after_the_time_that_the_provider_names(
    bench: Bench, given: Any, due_in: float | None, why: str
) -> None:
    bench.add("c")
    [(before,)] = bench.look("SELECT clock_timestamp()")
    with structlog.testing.capture_logs() as logs:
        bench.run("c", raises(NotSent("429", retry_after=given)))
    [(after,)] = bench.look("SELECT clock_timestamp()")
    ignored = [line["retry_after"] for line in logs if line["event"].startswith("retry_after ignored")]
    assert ignored == ([] if due_in else [repr(given)])
    assert bench.row("c", "error, tried") == (why, 0 if due_in else 1)
    low, high = (due_in, due_in) if due_in else (1, 2)
    due_at = bench.row("c", "due_at")
    assert before + timedelta(seconds=low) <= due_at <= after + timedelta(seconds=high)


def test_the_lifetime_of_a_key_begins_with_the_first_attempt_that_may_have_arrived(bench: Bench) -> None:
    bench.add("c")
    for _ in range(3):
        bench.run("c", BUSY)
        assert bench.row("c", "first_attempt_at") is None
    bench.run("c", UNKNOWN)
    assert bench.row("c", "first_attempt_at") is not None
    bench.look("UPDATE sluice.executed_side_effects SET first_attempt_at = now() - interval '10 min'")
    bench.run("c", BUSY)
    assert bench.row("c", "state, first_attempt_at < now() - interval '9 min'") == ("pending", True)
    # The first attempt is older than the time for which the provider keeps a key, so the call is not
    # repeated.
    bench.look("UPDATE sluice.executed_side_effects SET first_attempt_at = now() - interval '1 h'")
    bench.run("c", BUSY)
    assert (bench.state("c"), len(bench.called)) == ("uncertain", 5)


def test_attempt_numbers_start_again_at_1_after_the_largest_number(bench: Bench) -> None:
    bench.add("c")
    bench.look("UPDATE sluice.executed_side_effects SET attempt = 32766")
    for attempt in (32_767, 1, 2):
        bench.run("c", BUSY)
        assert bench.row("c", "attempt") == attempt
    assert [call.attempt for call in bench.called] == [32_767, 1, 2]


def test_a_waiting_call_holds_later_calls_of_its_entity(bench: Bench) -> None:
    bench.add("first", "second")
    bench.run("first", BUSY)
    bench.look("UPDATE sluice.executed_side_effects SET due_at = now() WHERE effect_key = 'second'")
    bench.executor.run("second")
    bench.add("other", entity_key="elsewhere")
    bench.executor.run("other")
    assert [call.key for call in bench.called] == ["first", "other"]
    bench.run("first")
    bench.run("second")
    assert [call.key for call in bench.called] == ["first", "other", "first", "second"]


def test_an_unknown_key_and_a_key_of_an_undeclared_effect_are_ignored(bench: Bench) -> None:
    bench.add("c", effect="elsewhere")
    bench.executor.run("c")
    bench.executor.run("unknown")
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
def test_a_success_is_stored_for_every_answer(bench: Bench, answer: Any, response: Any) -> None:
    bench.add("c")
    bench.run("c", lambda _: answer)
    assert bench.row("c", "state, response") == ("succeeded", response)


def test_an_answer_that_json_cannot_represent_is_stored_as_a_success(bench: Bench) -> None:
    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for key, answer in (("a", Unprintable()), ("b", deep), ("c", object())):
        bench.add(key)
        bench.run(key, lambda _, answer=answer: answer)  # type: ignore[misc]
        assert bench.row(key, "state, response ? 'repr'") == ("succeeded", True)
