"""Events that wait for a lock or are slow are set aside and retried. Meanwhile, other events are applied."""

from collections import Counter
from dataclasses import replace

import pytest

from sluice.runtime.fault_points import faults
from sluice.tasks.apply import retry_policy
from tests.db.tasks.applying import made, slice_of, thing_set
from tests.db.tasks.setting_aside import (
    HELD,
    HOLDS,
    KEYS,
    LOCK_TIMEOUT,
    ROW,
    SOON,
    TABLE,
    AsideBench,
    Hold,
    apply_held,
    apply_next,
    held,
    make_fast,
    make_slow,
    others,
)
from tests.db.tasks.setting_aside import bench as bench
from tests.waiting import wait_until

FEW = 5  # The number of keys of a batch that stays below all timeouts, even on a busy machine.
IMPATIENT = {"statement_timeout": "300ms"}


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
def test_an_event_that_needs_a_held_lock_waits_and_others_are_applied(bench: AsideBench, hold: Hold) -> None:
    keys = KEYS if hold is ROW else FEW
    with held(bench, hold) as pid:
        apply_held(bench, hold, keys)
        assert len([key for key in bench.amounts() if key.startswith("key-")]) == keys - 1
        assert "free" in bench.amounts()
        assert bench.parked() == ["k"]
        assert bench.letters() == [(n, "waiting", "waiting") for n in (HELD, keys, keys + 1, keys + 2)]
        # With 10 attempts, the pauses have reached the longest backoff. However long a lock is held, the
        # event never becomes a dead letter.
        bench.retry_until_attempts(10)
        (row,) = bench.retries()
        assert (row["kind"], row["failures"]) == ("row_held", 0)
        assert [one["pid"] for one in row["blockers"]] == [pid]
        assert row["blockers"][0]["application"] == "psql"
        assert row["blockers"][0]["query"].startswith(hold.take.strip()[:10])
        assert bench.parked() == ["k"]
        assert "dead" not in bench.outcomes()
    bench.retry_until_settled()
    assert {state for _, _, state in bench.letters()} == {"done"}
    assert bench.retries() == []
    assert bench.parked() == []
    assert bench.sent("k")[-3:] == [10, 11, 12]
    assert bench.outcomes() == {"applied": keys + 4}
    assert set(bench.look("SELECT outcome FROM sluice.processed_events")) == {("applied",)}


def test_several_entities_of_one_batch_are_set_aside(bench: AsideBench) -> None:
    names = [f"key-{n}" for n in (3, 5, 8)]
    rows = ", ".join(f"('{name}', 0)" for name in names)
    hold = Hold(
        f"INSERT INTO things (thing_id, amount) VALUES {rows}", "SELECT FROM things FOR UPDATE", ROW.event
    )
    with held(bench, hold):
        bench.apply(slice_of(others(20)))
        assert bench.amounts() == {f"key-{n}": 0 if n in (3, 5, 8) else n for n in range(20) if n != HELD}
        assert bench.parked() == names
    bench.retry_until_settled()
    assert bench.amounts() == {f"key-{n}": n for n in range(20) if n != HELD}


def test_two_held_events_of_one_entity_are_applied_one_after_the_other(bench: AsideBench) -> None:
    part = made(HELD + 1, "part.added", "k", thing_id="whole")
    with held(bench, TABLE):
        with held(bench, ROW):
            bench.apply(slice_of([*others(2), ROW.event, part, thing_set(HELD + 2, "k", amount=7)]))
            bench.retry_until_attempts(3)
            assert [row["letter_id"] for row in bench.retries()] == [1]
        wait_until(
            lambda: bench.retry() and bench.sent("k"), timeout_seconds=10, what="the first event is applied"
        )
        bench.retry_until_attempts(3)
        assert [(row["letter_id"], row["kind"]) for row in bench.retries()] == [(2, "row_held")]
        assert bench.sent("k") == [5]
    bench.retry_until_settled()
    assert bench.sent("k") == [5, 7]
    assert bench.look("SELECT part_id FROM parts") == [("k",)]
    assert bench.parked() == []


def test_one_retry_applies_all_events_before_a_held_event(bench: AsideBench) -> None:
    part = made(HELD + 2, "part.added", "k", thing_id="whole")
    with held(bench, TABLE):
        with held(bench, ROW):
            events = [*others(2), ROW.event, thing_set(HELD + 1, "k", amount=6), part]
            bench.apply(slice_of([*events, thing_set(HELD + 3, "k", amount=7)]))
        bench.retry_until(lambda: bench.sent("k") == [5, 6])
        bench.retry_until_attempts(2)
        assert [state for _, _, state in bench.letters()] == ["done", "done", "waiting", "waiting"]
        # The second event has never failed. It only waited.
        assert bench.look("SELECT attempts FROM sluice.dead_letters WHERE id = 2") == [(1,)]
    bench.retry_until_settled()
    assert bench.sent("k") == [5, 6, 7]


def test_a_waiting_event_that_postgres_refuses_is_dead_after_one_retry(bench: AsideBench) -> None:
    bench.look("INSERT INTO things (thing_id, amount, name) VALUES ('other', 0, 'taken')")
    with held(bench, ROW):
        refused = thing_set(HELD + 2, "k", amount=1, name="taken")
        bench.apply(slice_of([*others(2), ROW.event, thing_set(HELD + 1, "k", amount=6), refused]))
    results: Counter[str] = Counter()
    while bench.retries():
        results.update(bench.retry())
    assert results == {"applied": 1, "dead": 1}
    assert [state for _, _, state in bench.letters()] == ["done", "done", "dead"]


def test_a_retry_does_not_wait_for_a_held_lock(bench: AsideBench) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
        # If a retry waited for the lock, its statement would time out.
        bench.restart(statement_timeout="1s", lock_timeout="1h")
        bench.retry_until_attempts(4)
        assert [row["kind"] for row in bench.retries()] == ["row_held"]


def test_the_next_retry_after_a_release_applies_the_event(bench: AsideBench) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
    bench.retry_until_settled()
    assert bench.sent("k") == [5, 10, 11, 12]


def test_an_event_is_set_aside_only_if_an_event_of_another_entity_is_applied(
    bench: AsideBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_policy, "PATIENCE_SECONDS", 1.0)
    with held(bench, ROW):
        assert bench.apply(slice_of([ROW.event, thing_set(HELD + 1, "k", amount=6)])) is None
        assert bench.letters() == []
        assert bench.retries() == []
        assert bench.outcomes() == {}
    assert bench.apply(slice_of([ROW.event, thing_set(HELD + 1, "k", amount=6)])) is not None
    assert bench.sent("k") == [5, 6]


def test_no_event_is_set_aside_on_a_slow_server(bench: AsideBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_policy, "PATIENCE_SECONDS", 1.0)
    bench.restart(SOON, **IMPATIENT)
    make_slow(bench, "true")
    batch = slice_of(others(4))
    assert bench.apply(batch) is None
    assert bench.letters() == []
    assert bench.retries() == []
    assert bench.amounts() == {}
    make_fast(bench)
    assert bench.apply(batch) is not None
    assert bench.outcomes() == {"applied": 3}


def test_a_slow_event_becomes_a_dead_letter_if_other_events_are_applied_between_its_timeouts(
    bench: AsideBench,
) -> None:
    bench.restart(replace(SOON, max_failures=3), **IMPATIENT)
    make_slow(bench, "NEW.thing_id = 'k'")
    apply_held(bench, ROW, FEW)
    offset = FEW + 4
    counted = [0]
    while bench.retries():
        bench.retry_until_attempts(bench.retries()[0]["attempts"] + 1)
        counted += [row["failures"] for row in bench.retries()]
        apply_next(bench, offset)
        offset += 1
    # The first timeout of the retry does not count, because a batch of the queue has also timed out before
    # it.
    assert counted == [0, 0, 1, 2]
    assert bench.letters() == [(HELD, "dead", "dead"), *((FEW + n, "waiting", "waiting") for n in range(3))]
    ((text, reason),) = bench.look(
        "SELECT error_text, reason FROM sluice.dead_letters, sluice.parked_entities WHERE state = 'dead'"
    )
    assert text.startswith("timed out 3 times while other events of its queue were applied; last error: ")
    assert text in reason
    assert bench.outcomes() == {"applied": offset - 4, "dead": 1, "waiting": 3}
    assert bench.look(f'SELECT outcome FROM sluice.processed_events WHERE "offset" = {HELD}') == [("dead",)]


def test_a_slow_event_waits_while_no_other_event_is_applied(bench: AsideBench) -> None:
    bench.restart(replace(SOON, max_failures=1), **IMPATIENT)
    make_slow(bench, "NEW.thing_id = 'k'")
    apply_held(bench, ROW, FEW)
    bench.retry_until_attempts(4)
    assert [(row["kind"], row["failures"]) for row in bench.retries()] == [("timed_out", 0)]
    make_fast(bench)
    bench.retry_until_settled()
    assert bench.sent("k") == [5, 10, 11, 12]


def test_the_limits_of_the_session_apply_again_after_an_event_was_set_aside(
    bench: AsideBench,
) -> None:
    bench.look("""
        CREATE TABLE limits (at_statement text, at_lock text);
        CREATE FUNCTION note_limits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO limits VALUES (current_setting('statement_timeout'), current_setting('lock_timeout'));
            RETURN NULL;
        END $$;
        CREATE TRIGGER notes AFTER INSERT OR UPDATE ON sluice.lane_offsets EXECUTE FUNCTION note_limits()
    """)
    bench.restart(statement_timeout="4s")
    with held(bench, ROW):
        assert bench.apply(slice_of([*others(2), ROW.event])) is not None
    assert bench.parked() == ["k"]
    assert set(bench.look("SELECT * FROM limits")) == {("4s", LOCK_TIMEOUT)}


@pytest.mark.parametrize("point", ["retry.before_commit", "retry.committed"])
def test_an_interrupted_retry_is_repeated(bench: AsideBench, point: str) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
    faults.arm(f"{point}:1:raise")
    try:
        assert wait_until(bench.retry, timeout_seconds=10, what="a retry")["refused"] == 1
    finally:
        faults.arm("")
    bench.retry_until_settled()
    assert bench.sent("k") == [5, 10, 11, 12]
    assert bench.outcomes() == {"applied": FEW + 4}


def test_a_batch_that_ends_before_its_commit_sets_no_event_aside(bench: AsideBench) -> None:
    faults.arm("apply.before_commit:1:raise")
    with held(bench, ROW):
        try:
            assert bench.apply(slice_of([*others(2), ROW.event])) is None
        finally:
            faults.arm("")
        assert bench.letters() == []
        assert bench.apply(slice_of([*others(2), ROW.event])) is not None
        assert len(bench.retries()) == 1
