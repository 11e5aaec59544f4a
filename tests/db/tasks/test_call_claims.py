"""Claims of calls by one or more workers on a real Postgres: scenarios, and mutants that they catch."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest

from sluice.db.sending import calls as calls_module
from sluice.stack.patience import patient
from sluice.tasks.api import EffectCall, Refused
from sluice.tasks.effects import executor as executor_module
from tests.db.tasks import calling
from tests.db.tasks.calling import NOT_SENT, RESULT_NOT_STORED, UNKNOWN, Act, Bench
from tests.mutants import mutated
from tests.waiting import wait_until

bench, quiet = calling.bench, calling.quiet


# The scenarios. A test below runs each of them with the real code, another test runs them with mutants.


def other_sessions_see_a_call_as_running_during_the_call(bench: Bench) -> None:
    bench.add("c")

    def look(call: EffectCall) -> None:
        seen.append(bench.row("c", "state, attempt, claimed_until > now() + interval '30 s'"))
        assert activity(bench, "state LIKE 'idle in%'") == 0, "a transaction is open during the call"

    seen: list[Any] = []
    bench.run("c", look)
    assert seen == [("running", 1, True)]


def every_attempt_has_the_same_key(bench: Bench) -> None:
    bench.add("c")
    acts: tuple[Act, ...] = (UNKNOWN, NOT_SENT, lambda _: {})
    for act in acts:
        bench.run("c", act)
    assert [(call.key, call.args, call.attempt) for call in bench.called] == [
        ("c", {"n": 1}, attempt) for attempt in (1, 2, 3)
    ]


def a_valid_lease_does_not_expire(bench: Bench) -> None:
    bench.add("c")
    expired = []
    bench.run("c", lambda _: expired.append(bench.effects.expire_claims(bench.open(), bench.registry)))
    assert expired == [0]
    assert bench.row("c", "state, attempt") == ("succeeded", 1)


def a_failure_after_the_end_of_the_lease_changes_nothing(bench: Bench) -> None:
    bench.add("c")

    def late(call: EffectCall) -> None:
        assert bench.expire("c") == 1
        raise Refused("late")

    bench.run("c", late)
    assert bench.row("c", "state, attempt, error") == ("pending", 1, RESULT_NOT_STORED)


def a_failure_of_an_older_attempt_changes_nothing(bench: Bench) -> None:
    bench.add("c")

    def late(call: EffectCall) -> None:
        assert bench.expire("c") == 1
        bench.calls.begin_attempt(bench.open(), "c", 100.0)
        raise Refused("late")

    bench.run("c", late)
    assert bench.row("c", "state, attempt, error, claimed_until > now()") == ("running", 2, None, True)


def two_calls_of_one_entity_claimed_together_are_made_one_by_one(bench: Bench) -> None:
    """An operator releases the earlier call while a worker claims the later call."""
    bench.add("first", "second", effect="mail")
    bench.run("first", UNKNOWN)
    bench.called.clear()
    calls, claiming = bench.calls, bench.open()
    with claiming.transaction():
        second = calls.lock_call(claiming, "second")
        assert calls.lock_order(claiming, second, []) == (False, False)
        calls.begin_attempt(claiming, "second", 100.0)
        bench.look(
            "UPDATE sluice.executed_side_effects SET state = 'pending', ended_unknown = false"
            " WHERE effect_key = 'first'"
        )
        thread = in_thread(bench, "first")
        wait_until(
            lambda: not thread.is_alive() or activity(bench, WAITS),
            timeout_seconds=5,
            what="the claim waits or ends",
        )
    thread.join(patient(30))
    assert bench.called == []
    assert (bench.state("first"), bench.state("second")) == ("pending", "running")


def a_call_claimed_by_two_workers_is_made_only_once(bench: Bench) -> None:
    bench.add("c")
    blocking = bench.open()
    with blocking.transaction():
        calls_module.lock_call(blocking, "c")
        threads = [in_thread(bench, "c"), in_thread(bench, "c")]
        wait_until(lambda: activity(bench, WAITS) == 2, timeout_seconds=5, what="both claims wait")
    for thread in threads:
        thread.join(patient(30))
    assert len(bench.called) == 1
    assert bench.row("c", "state, attempt") == ("succeeded", 1)


def in_thread(bench: Bench, key: str) -> threading.Thread:
    """Runs an executor in a thread. The executor has its own session, as it has in another process."""
    executor = bench.effects.Executor(bench.open(), bench.registry)
    thread = threading.Thread(target=executor.run, args=(key,), daemon=True)
    thread.start()
    return thread


WAITS = "wait_event_type = 'Lock'"


def activity(bench: Bench, condition: str) -> int:
    """Returns the number of sessions of this database that match the condition."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
    return int(bench.look(query + condition)[0][0])


SCENARIOS = (
    other_sessions_see_a_call_as_running_during_the_call,
    every_attempt_has_the_same_key,
    a_valid_lease_does_not_expire,
    a_failure_after_the_end_of_the_lease_changes_nothing,
    a_failure_of_an_older_attempt_changes_nothing,
    two_calls_of_one_entity_claimed_together_are_made_one_by_one,
    a_call_claimed_by_two_workers_is_made_only_once,
)


@pytest.fixture
def no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the time limit of calls, because time limits work only in the main thread."""
    monkeypatch.setattr(executor_module, "_time_limit", lambda _: nullcontext())


@pytest.mark.usefixtures("no_time_limit")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_scenario_passes(bench: Bench, scenario: Callable[[Bench], None]) -> None:
    scenario(bench)


CLAIM = "calls.begin_attempt(session, effect_key, policy.timeout_seconds + CLAIM_MARGIN_SECONDS)"
ANY_ATTEMPT = "WHERE effect_key = $1 AND attempt = $2 AND state = $7"


@pytest.mark.parametrize(
    ("scenario", "module", "old", "new"),
    [
        # Mutant: the claim is not stored.
        (other_sessions_see_a_call_as_running_during_the_call, executor_module, CLAIM, "pass"),
        (a_call_claimed_by_two_workers_is_made_only_once, executor_module, CLAIM, "pass"),
        # Mutant: the claim is committed after the call.
        (
            other_sessions_see_a_call_as_running_during_the_call,
            executor_module,
            "        with session.transaction():\n            row = calls.lock_call",
            "        session.command('BEGIN')\n        if True:\n            row = calls.lock_call",
        ),
        (
            every_attempt_has_the_same_key,
            executor_module,
            "EffectCall(row.effect_key,",
            "EffectCall(f'{row.effect_key}#{row.attempt}',",
        ),
        (
            a_valid_lease_does_not_expire,
            calls_module,
            "state = 'running' AND claimed_until < now()",
            "state = 'running' AND claimed_until IS NOT NULL",
        ),
        (
            a_failure_after_the_end_of_the_lease_changes_nothing,
            calls_module,
            ANY_ATTEMPT,
            "WHERE effect_key = $1",
        ),
        (
            a_failure_after_the_end_of_the_lease_changes_nothing,
            calls_module,
            ANY_ATTEMPT,
            "WHERE effect_key = $1 AND attempt = $2",
        ),
        (
            a_failure_of_an_older_attempt_changes_nothing,
            calls_module,
            ANY_ATTEMPT,
            "WHERE effect_key = $1 AND state = $7",
        ),
        (
            two_calls_of_one_entity_claimed_together_are_made_one_by_one,
            calls_module,
            "if call.entity_key is not None:",
            "if False:",
        ),
        (
            a_call_claimed_by_two_workers_is_made_only_once,
            calls_module,
            "WHERE effect_key = $1 FOR UPDATE",
            "WHERE effect_key = $1",
        ),
    ],
)
def test_the_scenario_catches_the_mutant(
    database_url: str, scenario: Callable[[Bench], None], module: ModuleType, old: str, new: str
) -> None:
    effects, calls = mutated(executor_module, "class Executor:", "class Executor:"), calls_module
    if module is executor_module:
        effects = mutated(executor_module, old, new)
    else:
        calls = mutated(calls_module, old, new)
    vars(effects).update(calls=calls, _time_limit=lambda _: nullcontext())
    bench = Bench(database_url, effects, calls)
    try:
        with pytest.raises(AssertionError):
            scenario(bench)
    finally:
        bench.close()
