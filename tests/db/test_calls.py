"""Calls on a real Postgres: claimed, made, stored, taken back; and the mutants that these scenarios catch."""

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
import structlog

import db.calls
import tasks.effects
from db.calls import EFFECTS_PAUSED
from db.ledger import insert_effects
from db.records import LedgerRow
from db.session import QUEUE_PLANS, Session
from db.switches import clear_switch, set_switch
from tasks.api import EffectCall, EffectDeclaration, NotSent, Refused
from tasks.dispatch import AGAIN_AFTER_SECONDS, MAX_WAITING, Dispatcher
from tasks.faults import FaultInjected, faults
from tasks.handlers import EffectEntry, Registry
from tests.mutants import mutated
from tests.waiting import wait_until

Act = Callable[[EffectCall], Any]


class Bench:
    """A ledger, executors over it, and a provider that does what it is told, one act per attempt."""

    def __init__(
        self, database_url: str, effects: ModuleType = tasks.effects, calls: ModuleType = db.calls
    ) -> None:
        self.url = database_url
        self.effects, self.calls = effects, calls
        self.sessions: list[Session] = []
        self.looking = self.open()
        self.registry = Registry()
        for declaration in (
            EffectDeclaration("pay", "retry", 10, 3, 3_600, holds=False),
            EffectDeclaration("mail", "ask", 10, 3, None, holds=False),
            EffectDeclaration("strict", "ask", 10, 3, None, holds=True),
            EffectDeclaration("slow", "retry", 0.2, 3, 3_600, holds=False),
        ):
            self.registry.effects[declaration.name] = EffectEntry(declaration, self.provide)
        self.acts: list[Act] = []
        self.called: list[EffectCall] = []
        self.session = self.open()
        self.executor = self.effects.Executor(self.session, self.registry)

    def provide(self, call: EffectCall) -> Any:
        self.called.append(call)
        return self.acts.pop(0)(call) if self.acts else {"ok": True}

    def open(self) -> Session:
        session = Session(self.url, application_name="test effects", plans=QUEUE_PLANS)
        self.sessions.append(session)
        return session

    def add(self, *keys: str, effect: str = "pay", entity_key: str | None = "k") -> None:
        """Calls to make, in this order."""
        rows = [
            LedgerRow(key, effect, UUID(int=1), entity_key, '{"n":1}', UUID(int=2), False) for key in keys
        ]
        insert_effects(self.looking, "order", rows)

    def run(self, key: str, *acts: Act) -> None:
        """One attempt, now, in which the provider does `acts`."""
        self.look("UPDATE sluice.executed_side_effects SET due_at = now() WHERE state = 'pending'")
        self.acts = list(acts)
        self.executor.run(key)

    def expire(self, key: str) -> int:
        """Ends the lease of a call and looks for such ones."""
        self.look(
            "UPDATE sluice.executed_side_effects SET lease_until = now() - interval '1 s'"
            f" WHERE effect_key = '{key}'"
        )
        return int(self.effects.expire_leases(self.open(), self.registry))

    def state(self, key: str) -> str:
        return str(self.row(key, "state"))

    def row(self, key: str, columns: str) -> Any:
        """One column's value, or several as a tuple."""
        [row] = self.look(f"SELECT {columns} FROM sluice.executed_side_effects WHERE effect_key = '{key}'")
        return row[0] if len(row) == 1 else row

    def look(self, query: str) -> list[tuple[Any, ...]]:
        with self.looking.connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []

    def pause(self) -> None:
        set_switch(self.looking, EFFECTS_PAUSED, actor="me", reason="test")

    def resume(self) -> None:
        clear_switch(self.looking, EFFECTS_PAUSED)

    def close(self) -> None:
        for session in self.sessions:
            session.close()


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    bench = Bench(database_url)
    yield bench
    bench.close()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def raises(error: BaseException) -> Act:
    def act(call: EffectCall) -> Any:
        raise error

    return act


def hang(call: EffectCall) -> Any:
    """A client that takes every error for one of its own."""
    try:
        threading.Event().wait(10)
    except Exception:
        return {"swallowed": True}


NEVER_TOLD = "the process that made the call never told what became of it"
UNKNOWN, NOT_SENT, REFUSED = raises(OSError("reset")), raises(NotSent("no route")), raises(Refused("broke"))


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
    assert bench.row("c", "attempt, tried, ended_unknown, error, lease_until") == (
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


# Scenarios: also played with mutants, below.


def while_it_is_made_everybody_sees_it_running(bench: Bench) -> None:
    bench.add("c")

    def look(call: EffectCall) -> None:
        seen.append(bench.row("c", "state, attempt, lease_until > now() + interval '30 s'"))
        assert activity(bench, "state LIKE 'idle in%'") == 0, "a transaction is open meanwhile"

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


def a_lease_that_lasts_is_left_alone(bench: Bench) -> None:
    bench.add("c")
    expired = []
    bench.run("c", lambda _: expired.append(bench.effects.expire_leases(bench.open(), bench.registry)))
    assert expired == [0]
    assert bench.row("c", "state, attempt") == ("succeeded", 1)


def a_failure_told_after_the_lease_changes_nothing(bench: Bench) -> None:
    bench.add("c")

    def late(call: EffectCall) -> None:
        assert bench.expire("c") == 1
        raise Refused("late")

    bench.run("c", late)
    assert bench.row("c", "state, attempt, error") == ("pending", 1, NEVER_TOLD)


def a_failure_of_an_older_attempt_changes_nothing(bench: Bench) -> None:
    bench.add("c")

    def late(call: EffectCall) -> None:
        assert bench.expire("c") == 1
        bench.calls.begin_attempt(bench.open(), "c", 100.0)
        raise Refused("late")

    bench.run("c", late)
    assert bench.row("c", "state, attempt, error, lease_until > now()") == ("running", 2, None, True)


def two_calls_of_one_entity_claimed_at_once_are_made_one_by_one(bench: Bench) -> None:
    """The earlier one is released by somebody while the later one is being claimed."""
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
            lambda: not thread.is_alive() or activity(bench, WAITS), timeout_seconds=5, what="the claim"
        )
    thread.join(5)
    assert bench.called == []
    assert (bench.state("first"), bench.state("second")) == ("pending", "running")


def one_call_claimed_by_two_at_once_is_made_once(bench: Bench) -> None:
    bench.add("c")
    blocking = bench.open()
    with blocking.transaction():
        db.calls.lock_call(blocking, "c")
        threads = [in_thread(bench, "c"), in_thread(bench, "c")]
        wait_until(lambda: activity(bench, WAITS) == 2, timeout_seconds=5, what="both claims")
    for thread in threads:
        thread.join(5)
    assert len(bench.called) == 1
    assert bench.row("c", "state, attempt") == ("succeeded", 1)


def in_thread(bench: Bench, key: str) -> threading.Thread:
    """Another process, so to speak: an executor with a session of its own."""
    executor = bench.effects.Executor(bench.open(), bench.registry)
    thread = threading.Thread(target=executor.run, args=(key,), daemon=True)
    thread.start()
    return thread


WAITS = "wait_event_type = 'Lock'"


def activity(bench: Bench, condition: str) -> int:
    """How many sessions of this database are so."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
    return int(bench.look(query + condition)[0][0])


SCENARIOS = (
    while_it_is_made_everybody_sees_it_running,
    every_attempt_has_the_same_key,
    a_lease_that_lasts_is_left_alone,
    a_failure_told_after_the_lease_changes_nothing,
    a_failure_of_an_older_attempt_changes_nothing,
    two_calls_of_one_entity_claimed_at_once_are_made_one_by_one,
    one_call_claimed_by_two_at_once_is_made_once,
)


@pytest.fixture
def no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It works in a main thread only; here it is not what matters."""
    monkeypatch.setattr(tasks.effects, "_time_limit", lambda _: nullcontext())


@pytest.mark.usefixtures("no_time_limit")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_scenario(bench: Bench, scenario: Callable[[Bench], None]) -> None:
    scenario(bench)


CLAIM = "calls.begin_attempt(session, effect_key, policy.timeout_seconds + LEASE_MARGIN_SECONDS)"
ANY_ATTEMPT = "WHERE effect_key = $1 AND attempt = $2 AND state = $7"


@pytest.mark.parametrize(
    ("scenario", "module", "old", "new"),
    [
        # Nobody is told before the call.
        (while_it_is_made_everybody_sees_it_running, tasks.effects, CLAIM, "pass"),
        (one_call_claimed_by_two_at_once_is_made_once, tasks.effects, CLAIM, "pass"),
        # The claim is committed after the call.
        (
            while_it_is_made_everybody_sees_it_running,
            tasks.effects,
            "        with session.transaction():\n            row = calls.lock_call",
            "        session.command('BEGIN')\n        if True:\n            row = calls.lock_call",
        ),
        (
            every_attempt_has_the_same_key,
            tasks.effects,
            "EffectCall(row.effect_key,",
            "EffectCall(f'{row.effect_key}#{row.attempt}',",
        ),
        (
            a_lease_that_lasts_is_left_alone,
            db.calls,
            "state = 'running' AND lease_until < now()",
            "state = 'running' AND lease_until IS NOT NULL",
        ),
        (a_failure_told_after_the_lease_changes_nothing, db.calls, ANY_ATTEMPT, "WHERE effect_key = $1"),
        (
            a_failure_told_after_the_lease_changes_nothing,
            db.calls,
            ANY_ATTEMPT,
            "WHERE effect_key = $1 AND attempt = $2",
        ),
        (
            a_failure_of_an_older_attempt_changes_nothing,
            db.calls,
            ANY_ATTEMPT,
            "WHERE effect_key = $1 AND state = $7",
        ),
        (
            two_calls_of_one_entity_claimed_at_once_are_made_one_by_one,
            db.calls,
            "if call.entity_key is not None:",
            "if False:",
        ),
        (
            one_call_claimed_by_two_at_once_is_made_once,
            db.calls,
            "WHERE effect_key = $1 FOR UPDATE",
            "WHERE effect_key = $1",
        ),
    ],
)
def test_a_scenario_catches(
    database_url: str, scenario: Callable[[Bench], None], module: ModuleType, old: str, new: str
) -> None:
    effects, calls = mutated(tasks.effects, "class Executor:", "class Executor:"), db.calls
    if module is tasks.effects:
        effects = mutated(tasks.effects, old, new)
    else:
        calls = mutated(db.calls, old, new)
    vars(effects).update(calls=calls, _time_limit=lambda _: nullcontext())
    bench = Bench(database_url, effects, calls)
    try:
        with pytest.raises(AssertionError):
            scenario(bench)
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("effect", "state"), [("pay", "pending"), ("mail", "uncertain"), ("undeclared", "uncertain")]
)
def test_a_lease_that_ends_is_an_unknown_outcome(bench: Bench, effect: str, state: str) -> None:
    bench.add("c", "other", effect=effect)
    bench.calls.begin_attempt(bench.open(), "c", 100.0)
    assert bench.expire("c") == 1
    assert bench.row("c", "state, attempt, ended_unknown, error") == (state, 1, True, NEVER_TOLD)
    assert bench.expire("c") == 0
    assert bench.state("other") == "pending"


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
def test_a_process_that_ends_leaves_a_lease_to_end(
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
        # Meanwhile the lease ended, and somebody went on from there.
        bench.look(f"UPDATE sluice.executed_side_effects SET state = '{state}', attempt = 2, error = 'e'")
        return {"late": True}

    bench.run("c", late)
    stored = state != "succeeded"
    assert bench.row("c", "state, error, response") == (
        "succeeded",
        None if stored else "e",
        {"late": True} if stored else None,
    )


def test_of_one_entity_and_effect_one_call_at_a_time_in_order(bench: Bench) -> None:
    bench.add("a", "b")
    bench.add("another's", entity_key="l")
    bench.add("another", effect="mail")
    for key in ("b", "another's", "another"):
        bench.run(key)
    assert [call.key for call in bench.called] == ["another's", "another"]
    bench.run("a", NOT_SENT)
    bench.run("b")
    assert bench.state("b") == "pending", "the one before waits for its next attempt"
    bench.run("a")
    bench.run("b")
    assert bench.state("b") == "succeeded"


def test_nothing_begins_while_another_one_runs_even_if_that_is_the_later(bench: Bench) -> None:
    bench.add("a", "b")
    bench.calls.begin_attempt(bench.open(), "b", 100.0)
    bench.run("a")
    assert bench.called == []


@pytest.mark.parametrize(("effect", "held"), [("mail", False), ("strict", True)])
@pytest.mark.parametrize("act", [UNKNOWN, REFUSED], ids=["uncertain", "failed"])
def test_what_ended_badly_holds_later_ones_only_if_the_effect_says_so(
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


def test_while_calls_are_paused_none_is_made(bench: Bench) -> None:
    bench.add("c")
    bench.pause()
    bench.run("c")
    assert (bench.called, bench.row("c", "state, attempt")) == ([], ("pending", 0))
    bench.resume()
    bench.run("c")
    assert bench.state("c") == "succeeded"


def test_a_key_that_was_forgotten_during_a_pause_is_not_used_again(bench: Bench) -> None:
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


def test_an_answer_is_stored_although_the_connection_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.effects, "STORE_PAUSE_SECONDS", 0.01)
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


class Told:
    """A dispatcher, and what it published."""

    def __init__(self, bench: Bench) -> None:
        self.published: list[tuple[str, str]] = []
        self.waiting = 0
        self.dispatcher = Dispatcher(
            bench.open(), bench.registry, publish=self.publish, count_waiting=lambda: self.waiting
        )

    def publish(self, key: str, declaration: EffectDeclaration) -> None:
        self.published.append((key, declaration.name))

    def run(self) -> list[str]:
        """What is dispatched now."""
        self.published.clear()
        assert self.dispatcher.run_once() == len(self.published)
        return [key for key, _ in self.published]


@pytest.fixture
def told(bench: Bench) -> Told:
    return Told(bench)


def test_due_calls_are_dispatched_oldest_first_and_each_once(bench: Bench, told: Told) -> None:
    for number, key in enumerate(("c", "a", "b")):
        bench.add(key, entity_key=key)
        bench.look(
            f"UPDATE sluice.executed_side_effects SET due_at = now() - interval '{number} s'"
            f" WHERE effect_key = '{key}'"
        )
    bench.add("later", effect="mail")
    bench.look(
        "UPDATE sluice.executed_side_effects SET due_at = now() + interval '9 s' WHERE effect = 'mail'"
    )
    assert told.run() == ["b", "a", "c"]
    assert told.published[0] == ("b", "pay")
    assert told.run() == []


def dispatched_before(bench: Bench, seconds: float) -> None:
    bench.look(f"UPDATE sluice.executed_side_effects SET dispatched_at = now() - interval '{seconds} s'")


def test_a_message_that_may_be_lost_is_sent_again_after_a_while(bench: Bench, told: Told) -> None:
    bench.add("c")
    assert told.run() == ["c"]
    dispatched_before(bench, AGAIN_AFTER_SECONDS - 5)
    assert told.run() == []
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    assert told.run() == ["c"]


def test_after_a_failure_a_call_is_dispatched_as_soon_as_it_is_due(bench: Bench, told: Told) -> None:
    bench.add("c")
    assert told.run() == ["c"]
    bench.run("c", NOT_SENT)
    assert told.run() == []
    bench.look("UPDATE sluice.executed_side_effects SET due_at = now()")
    assert told.run() == ["c"]


def test_no_more_are_dispatched_than_the_list_takes(bench: Bench, told: Told) -> None:
    for key in ("a", "b", "c"):
        bench.add(key, entity_key=key)
    for waiting, expected in ((MAX_WAITING + 1, 0), (MAX_WAITING, 0), (MAX_WAITING - 2, 2), (0, 1)):
        told.waiting = waiting
        assert len(told.run()) == expected


def test_what_may_not_go_is_not_dispatched(bench: Bench, told: Told) -> None:
    bench.add("u", effect="undeclared")
    bench.add("a", "behind", effect="strict")
    bench.add("x", "y", effect="mail", entity_key=None)
    bench.pause()
    assert told.run() == []
    bench.resume()
    assert told.run() == ["a", "x", "y"]
    bench.run("a", REFUSED)
    assert told.run() == [], "the effect holds"
    bench.look("UPDATE sluice.executed_side_effects SET state = 'succeeded' WHERE effect_key = 'a'")
    assert told.run() == ["behind"]


def test_what_the_broker_did_not_take_is_dispatched_again_after_a_while(bench: Bench, told: Told) -> None:
    bench.add("a", entity_key="1")
    bench.add("b", entity_key="2")

    def fail(key: str, declaration: EffectDeclaration) -> None:
        raise OSError("Redis is away")

    cut_off = Dispatcher(bench.open(), bench.registry, publish=fail, count_waiting=lambda: 0)
    with pytest.raises(OSError, match="away"):
        cut_off.run_once()
    assert told.run() == []
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    assert told.run() == ["a", "b"]


def test_without_effects_nobody_is_asked(bench: Bench) -> None:
    dispatcher = Dispatcher(
        bench.open(), Registry(), publish=lambda *_: None, count_waiting=lambda: pytest.fail("asked")
    )
    assert dispatcher.run_once() == 0
