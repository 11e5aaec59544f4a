"""Calls in a World: a provider function answers each attempt, and the answer decides the next state."""

from typing import Any

import pytest

from sluice import EffectCall, NotSent, Refused
from sluice.testing import CallResult, World
from tests.unit.testing import planted


@pytest.fixture
def world() -> World:
    made = World(planted)
    made.send("orders", key="o-1", type="order.placed")
    return made


def states(results: list[CallResult]) -> list[tuple[str, int, str]]:
    return [(str(one.state), one.attempt, one.error) for one in results]


def raising(error: Exception) -> Any:
    def provider(call: EffectCall) -> None:
        raise error

    return provider


def test_a_call_is_made_one_time_with_its_key(world: World) -> None:
    seen: list[EffectCall] = []
    [made] = world.run_calls(lambda call: seen.append(call) or {"id": 7})  # type: ignore[func-returns-value]
    assert seen == [EffectCall("notify:o-1", {"id": "o-1"}, 1)]
    assert (made.state, made.answer, made.call, made.key) == (
        "succeeded",
        {"id": 7},
        world.calls[0],
        "notify:o-1",
    )
    world.redeliver()
    assert world.run_calls(raising(ValueError())) == []


def test_a_provider_is_found_by_the_name_of_its_effect(world: World) -> None:
    with pytest.raises(ValueError, match="no provider for effect 'notify'; given: other"):
        world.run_calls({"other": raising(ValueError())})
    assert states(world.run_calls({"notify": lambda call: None})) == [("succeeded", 1, "")]


def test_without_a_provider_the_effect_function_makes_the_call(world: World) -> None:
    [made] = world.run_calls()
    assert made.answer == {"key": "notify:o-1"}


def test_a_call_that_was_not_sent_is_tried_again(world: World) -> None:
    for attempt in (1, 2):
        assert states(world.run_calls(raising(NotSent("away")))) == [("pending", attempt, "NotSent: away")]
    assert states(world.run_calls()) == [("succeeded", 3, "")]


def test_a_call_fails_after_its_attempts_and_a_requested_pause_uses_no_attempt(world: World) -> None:
    for _ in range(20):
        [made] = world.run_calls(raising(NotSent(retry_after=5)))
        assert made.state == "pending"
    found = [str(one.state) for _ in range(9) for one in world.run_calls(raising(NotSent()))]
    assert found == ["pending"] * 7 + ["failed"]


@pytest.mark.parametrize(("error", "state"), [(Refused("no"), "failed"), (OSError("cut"), "uncertain")])
def test_a_final_error_ends_a_call(world: World, error: Exception, state: str) -> None:
    assert states(world.run_calls(raising(error))) == [(state, 1, f"{type(error).__name__}: {error}")]
    assert world.run_calls() == []


def test_calls_of_one_entity_are_made_one_after_the_other(world: World) -> None:
    world.send("orders", key="o-1", type="order.billed", data={"amount": 1})
    world.send("orders", key="o-2", type="order.billed", data={"amount": 2})
    first = world.run_calls(raising(NotSent("away")))
    assert [one.key for one in first] == ["notify:o-1", "notify:bill:o-2"]
    assert [one.key for one in world.run_calls()] == ["notify:o-1", "notify:bill:o-1", "notify:bill:o-2"]


def test_a_failed_assertion_of_a_provider_fails_the_test(world: World) -> None:
    with pytest.raises(AssertionError, match="wrong args"):
        world.run_calls(raising(AssertionError("wrong args")))
