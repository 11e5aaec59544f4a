"""Calls of one entity and effect begin one at a time and in order, and no call begins during a pause."""

import pytest

from tests.db.tasks import calling
from tests.db.tasks.calling import NOT_SENT, REFUSED, UNKNOWN, Act, Bench

bench, quiet = calling.bench, calling.quiet


def test_calls_of_one_entity_and_effect_are_made_one_at_a_time_in_order(bench: Bench) -> None:
    bench.add("a", "b")
    bench.add("another's", entity_key="l")
    bench.add("another", effect="mail")
    for key in ("b", "another's", "another"):
        bench.run(key)
    assert [call.key for call in bench.called] == ["another's", "another"]
    bench.run("a", NOT_SENT)
    bench.run("b")
    assert bench.state("b") == "pending", "call a waits for its next attempt"
    bench.run("a")
    bench.run("b")
    assert bench.state("b") == "succeeded"


def test_a_call_does_not_begin_while_a_later_call_of_its_entity_runs(bench: Bench) -> None:
    bench.add("a", "b")
    bench.calls.begin_attempt(bench.open(), "b", 100.0)
    bench.run("a")
    assert bench.called == []


@pytest.mark.parametrize(("effect", "held"), [("mail", False), ("strict", True)])
@pytest.mark.parametrize("act", [UNKNOWN, REFUSED], ids=["uncertain", "failed"])
def test_a_failed_or_uncertain_call_holds_later_calls_only_if_the_effect_holds(
    bench: Bench, effect: str, act: Act, held: bool
) -> None:
    bench.add("a", "b", effect=effect)
    bench.run("a", act)
    bench.run("b")
    assert bench.state("b") == ("pending" if held else "succeeded")


def test_calls_without_an_entity_have_no_order(bench: Bench) -> None:
    bench.add("a", "b", effect="strict", entity_key=None)
    bench.run("a", REFUSED)
    bench.run("b")
    assert bench.state("b") == "succeeded"


def test_no_call_is_made_while_calls_are_paused(bench: Bench) -> None:
    bench.add("c")
    bench.pause()
    bench.run("c")
    assert (bench.called, bench.row("c", "state, attempt")) == ([], ("pending", 0))
    bench.resume()
    bench.run("c")
    assert bench.state("c") == "succeeded"


def test_a_call_is_not_repeated_if_its_key_expired_during_a_pause(bench: Bench) -> None:
    bench.add("c")
    bench.run("c", UNKNOWN)
    bench.pause()
    bench.look("UPDATE sluice.executed_side_effects SET first_attempt_at = now() - interval '3595 s'")
    bench.run("c")
    assert bench.state("c") == "pending"
    bench.resume()
    bench.run("c")
    assert bench.row("c", "state, attempt, ended_unknown, settled_at IS NULL") == (
        "uncertain",
        1,
        True,
        False,
    )
    assert len(bench.called) == 1
