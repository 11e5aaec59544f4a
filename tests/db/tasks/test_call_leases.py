"""Calls whose process or connection ends during an attempt, and answers that arrive late."""

from typing import Any

import pytest

from sluice.runtime.fault_points import FaultInjected, faults
from sluice.tasks.api import EffectCall, Refused
from sluice.tasks.effects import executor
from sluice.tasks.installation.formats import NEWEST_FORMAT
from tests.db.tasks import calling
from tests.db.tasks.calling import RESULT_NOT_STORED, Bench

bench, quiet = calling.bench, calling.quiet


@pytest.mark.parametrize(("effect", "state"), [("pay", "pending"), ("mail", "uncertain")])
def test_an_expired_lease_is_an_unknown_outcome(bench: Bench, effect: str, state: str) -> None:
    bench.add("c", "other", effect=effect)
    bench.calls.begin_attempt(bench.open(), "c", 100.0)
    assert bench.expire("c") == 1
    assert bench.row("c", "state, attempt, ended_unknown, error") == (state, 1, True, RESULT_NOT_STORED)
    assert bench.expire("c") == 0
    assert bench.state("other") == "pending"


@pytest.mark.parametrize(
    ("change", "left"),
    [("effect = 'undeclared'", True), (f"format = {NEWEST_FORMAT + 1}", True), ("format = 1", False)],
)
def test_a_lease_that_this_code_cannot_judge_is_left_to_newer_code(
    bench: Bench, change: str, left: bool
) -> None:
    bench.add("c", effect="mail")
    bench.calls.begin_attempt(bench.open(), "c", 100.0)
    bench.look(f"UPDATE sluice.executed_side_effects SET {change}")
    assert bench.expire("c") == (0 if left else 1)
    assert bench.state("c") == ("running" if left else "uncertain")


@pytest.mark.parametrize(
    ("point", "effect", "states", "made"),
    [
        ("effect.claimed", "pay", ["running", "pending", "succeeded"], 1),
        ("effect.answered", "pay", ["running", "pending", "succeeded"], 2),
        ("effect.stored", "pay", ["succeeded", "succeeded", "succeeded"], 1),
        ("effect.claimed", "mail", ["running", "uncertain", "uncertain"], 0),
        ("effect.answered", "mail", ["running", "uncertain", "uncertain"], 1),
        ("effect.stored", "mail", ["succeeded", "succeeded", "succeeded"], 1),
    ],
)
def test_the_lease_of_a_process_that_ended_expires(
    bench: Bench, point: str, effect: str, states: list[str], made: int
) -> None:
    bench.add("c", effect=effect)
    faults.arm(f"{point}:1:raise")
    try:
        with pytest.raises(FaultInjected):
            bench.run("c")
    finally:
        faults.arm("")
    found = [bench.state("c")]
    bench.expire("c")
    found.append(bench.state("c"))
    bench.run("c")
    found.append(bench.state("c"))
    assert (found, len(bench.called)) == (states, made)
    assert {call.key for call in bench.called} <= {"c"}


@pytest.mark.parametrize("state", ["pending", "running", "failed", "uncertain", "succeeded"])
def test_a_late_success_is_stored_from_any_state(bench: Bench, state: str) -> None:
    bench.add("c")

    def late(call: EffectCall) -> Any:
        # In the meantime, the lease has ended, and another process has changed the call.
        bench.look(f"UPDATE sluice.executed_side_effects SET state = '{state}', attempt = 2, error = 'e'")
        return {"late": True}

    bench.run("c", late)
    stored = state != "succeeded"
    assert bench.row("c", "state, error, response") == (
        "succeeded",
        None if stored else "e",
        {"late": True} if stored else None,
    )


def test_an_answer_is_stored_although_the_connection_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "STORE_PAUSE_SECONDS", 0.01)
    bench.add("a")
    bench.add("b", entity_key="l")

    def end_connection() -> None:
        bench.look(f"SELECT pg_terminate_backend({bench.session.connection.info.backend_pid})")

    def done(call: EffectCall) -> Any:
        end_connection()
        return {"done": True}

    def refused(call: EffectCall) -> Any:
        end_connection()
        raise Refused("no")

    before = bench.session.connection
    bench.run("a", done)
    assert bench.row("a", "state, response") == ("succeeded", {"done": True})
    assert bench.session.connection is not before
    bench.run("b", refused)
    assert bench.state("b") == "failed"
