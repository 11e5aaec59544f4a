"""Events that are retried, while commands and deployments change them or another fault occurs."""

import json
from dataclasses import replace

import pytest

from sluice.admin.doctor.rules_retrying import retrying_problems
from sluice.db.admin.open_issues import read_open_issues
from sluice.db.admin.rerouting import move_parked
from sluice.db.admin.retrying import read_retrying
from sluice.db.apply.handler_deaths import note_death
from sluice.runtime.place import EventPlace
from sluice.tasks import redrive
from tests.db.tasks.applying import QUEUE, TOPIC, TOPIC_ID, made, slice_of, thing_set
from tests.db.tasks.failing import WHY, Run, audits
from tests.db.tasks.failing import run as run
from tests.db.tasks.setting_aside import (
    HELD,
    ROW,
    SOON,
    TABLE,
    UNIQUE_KEY,
    AsideBench,
    apply_held,
    apply_next,
    held,
    others,
    thing_named,
)
from tests.db.tasks.setting_aside import bench as bench
from tests.waiting import wait_until

FEW = 5


def test_an_event_without_entity_is_retried_alone(bench: AsideBench) -> None:
    with held(bench, UNIQUE_KEY):
        bench.apply(slice_of([thing_named(0, "held", "taken"), thing_named(1, "free", "not taken")]))
        bench.retry_until_attempts(3)
        assert bench.amounts() == {"free": 1}
        assert bench.parked() == []
        assert [(row["key"], row["kind"]) for row in bench.retries()] == [(None, "row_held")]
    bench.retry_until_settled()
    assert bench.letters() == [(0, "waiting", "done")]
    assert bench.amounts() == {"free": 1, "held": 1}
    assert bench.outcomes() == {"applied": 2}
    assert bench.retries() == []


def test_an_error_of_the_handler_during_a_retry_makes_a_dead_letter(bench: AsideBench) -> None:
    handlers = bench.registry.handlers
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
        handlers["thing.set"], before = handlers["thing.broken"], handlers["thing.set"]
    bench.retry_until(lambda: not bench.retries())
    assert bench.letters() == [(HELD, "dead", "dead"), *((FEW + n, "waiting", "waiting") for n in range(3))]
    assert "thing_id" in str(bench.look("SELECT reason FROM sluice.parked_entities"))
    handlers["thing.set"] = before


def test_later_events_stay_waiting_if_a_waiting_event_fails(bench: AsideBench) -> None:
    with held(bench, ROW):
        events = [*others(2), ROW.event, thing_set(3, "k", amount=6), made(4, "thing.broken", "k")]
        bench.apply(slice_of([*events, thing_set(5, "k", amount=7)]))
    bench.retry_until(lambda: not bench.retries())
    states = ["done", "done", "dead", "waiting"]
    assert [state for _, _, state in bench.letters()] == states
    assert bench.sent("k") == [5, 6]
    assert bench.parked() == ["k"]


def test_events_behind_a_dead_letter_are_applied_on_a_topic_that_skips_failed_events(
    bench: AsideBench,
) -> None:
    bench.registry.topics[TOPIC] = replace(bench.registry.topics[TOPIC], on_failure="skip")
    bench.restart()
    # The entity has an older dead letter. On this topic, no event waits behind a dead letter.
    bench.apply(slice_of([made(0, "thing.broken", "k")]))
    with held(bench, ROW):
        events = [thing_set(1, "key-1"), ROW.event, made(3, "thing.broken", "k"), thing_set(4, "k", amount=7)]
        bench.apply(slice_of(events, prev=0))
        assert bench.parked() == ["k"]
    bench.retry_until_settled()
    assert [state for _, _, state in bench.letters()] == ["dead", "done", "dead", "done"]
    assert bench.sent("k") == [5, 7]
    assert bench.parked() == []


def test_a_retry_by_a_broken_deployment_is_refused_and_halts_no_queue(bench: AsideBench) -> None:
    with held(bench, TABLE):
        apply_held(bench, TABLE, FEW)
    bench.look("ALTER TABLE parts RENAME TO renamed")
    wait_until(lambda: "refused" in bench.retry(), timeout_seconds=20, what="a retry is refused")
    (row,) = bench.retries()
    assert (row["kind"], row["failures"]) == ("row_held", 0)
    assert bench.look("SELECT error_class FROM sluice.dead_letters WHERE id = 1") == [("UndefinedTable",)]
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]
    bench.look("ALTER TABLE renamed RENAME TO parts")
    bench.retry_until_settled()
    assert bench.parked() == []


def test_commands_and_the_doctor_report_a_retried_event(bench: AsideBench, run: Run) -> None:
    with held(bench, ROW) as pid:
        apply_held(bench, ROW, FEW)
        bench.retry_until_attempts(3)
        listed = json.loads(run("dlq", "ls", "--state", "retrying", "--json"))
        assert [(one["id"], one["state"], one["behind"]) for one in listed["letters"]] == [(1, "retrying", 3)]
        states = [(one["state"], one["letters"]) for one in listed["counts"]]
        assert states == [("retrying", 1), ("waiting", 3)]
        waiting = json.loads(run("dlq", "ls", "--state", "waiting", "--json"))["letters"]
        assert [one["id"] for one in waiting] == [4, 3, 2]
        assert json.loads(run("dlq", "ls", "--json"))["letters"] == []
        shown = json.loads(run("dlq", "show", "1", "--json"))
        assert shown["state"] == "retrying"
        assert shown["retry"]["kind"] == "row_held"
        assert [one["pid"] for one in shown["retry"]["blockers"]] == [pid]
        assert "retry" not in json.loads(run("dlq", "show", "2", "--json"))
        found = read_open_issues(bench.looking)
        assert (found.retrying_events, found.waiting_letters, found.dead_letters) == (1, 3, 0)
        assert found.parked_entities == 0
        assert not found.need_an_operator
        (finding,) = retrying_problems(read_retrying(bench.looking))
        assert finding.problem.startswith("Entity thing/k has waited for ")
        assert f"pid {pid}, application psql, user app, idle in transaction for" in finding.problem
        assert "query SELECT FROM things" in finding.problem
        assert f"pg_terminate_backend({pid})" in finding.advice
    # The other transaction has ended, so its session holds no lock now.
    (finding,) = retrying_problems(read_retrying(bench.looking))
    assert "at the newest attempt" in finding.problem
    bench.retry_until_settled()
    assert list(retrying_problems(read_retrying(bench.looking))) == []


def test_a_redrive_of_the_letter_ends_the_retries(bench: AsideBench, run: Run) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
    run("dlq", "redrive", "1", "--yes", *WHY)
    assert bench.retries() == []
    assert bench.parked() == []
    assert bench.sent("k") == [5, 10, 11, 12]


def test_a_resume_of_the_entity_ends_the_retries(bench: AsideBench, run: Run) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
    run("resume", "--entity", "thing", "k", *WHY)
    assert bench.retries() == []
    assert bench.sent("k") == [5, 10, 11, 12]


def test_a_drop_of_the_letter_redrives_the_letters_behind_it(bench: AsideBench, run: Run) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
    run("dlq", "drop", "1", "--yes", *WHY)
    assert bench.retries() == []
    assert bench.parked() == []
    assert bench.sent("k") == [10, 11, 12]
    assert [verb for verb, *_ in audits(bench)] == ["dlq drop"]


def test_a_drop_without_a_redrive_leaves_the_letters_behind_it_waiting(bench: AsideBench, run: Run) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
    run("dlq", "drop", "1", "--no-redrive", "--yes", *WHY)
    assert bench.retries() == []
    assert bench.parked() == ["k"]
    assert bench.retry() == {}
    assert [state for _, _, state in bench.letters()] == ["dropped", *["waiting"] * 3]


def test_a_drop_of_a_letter_without_entity_ends_its_retries(bench: AsideBench, run: Run) -> None:
    with held(bench, UNIQUE_KEY):
        bench.apply(slice_of([thing_named(0, "held", "taken"), thing_named(1, "free", "not taken")]))
        run("dlq", "drop", "1", "--yes", *WHY)
        bench.retry_until(lambda: not bench.retries())
    assert bench.letters() == [(0, "waiting", "dropped")]
    assert bench.amounts() == {"free": 1}


def test_a_pause_of_the_entity_ends_the_retries(bench: AsideBench, run: Run) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
        run("pause", "--entity", "thing", "k", *WHY)
        assert bench.retries() == []
    assert bench.retry() == {}
    assert "by hand" in str(bench.look("SELECT reason FROM sluice.parked_entities"))
    run("resume", "--entity", "thing", "k", *WHY)
    assert bench.sent("k") == [5, 10, 11, 12]


def test_rerouting_moves_the_retries(bench: AsideBench) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
    bench.look("INSERT INTO sluice.queues (queue, entity) VALUES ('thing.1', 'thing')")
    move_parked(bench.looking, "thing", {"k": "thing.1"})
    assert [row["queue"] for row in bench.retries()] == ["thing.1"]


def _end(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_retry_that_ends_the_process_is_not_repeated_immediately(bench: AsideBench) -> None:
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
    bench.restart(replace(SOON, first_pause_seconds=3_600, longest_pause_seconds=3_600))
    bench.look("UPDATE sluice.retries SET retry_at = now()")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redrive.Redriver, "retry_waiting", _end)
        with pytest.raises(KeyboardInterrupt):
            bench.retry()
    assert bench.retry() == {}
    assert bench.look("SELECT retry_at > now() FROM sluice.retries") == [(True,)]


@pytest.mark.parametrize(("deaths", "state"), [(2, "done"), (3, "dead")])
def test_three_deaths_in_the_handlers_make_a_dead_letter(bench: AsideBench, deaths: int, state: str) -> None:
    place = EventPlace(TOPIC, TOPIC_ID, 0, HELD)
    with held(bench, ROW):
        apply_held(bench, ROW, FEW)
        for _ in range(deaths):
            note_death(bench.looking, QUEUE, place, timed_out=False, how="signal 9")
        # Workers have applied later events of the lane. The deaths of the waiting event are still kept.
        apply_next(bench, FEW + 4)
    bench.retry_until(lambda: bench.letters()[0][2] != "waiting")
    assert bench.letters()[0][2] == state
    apply_next(bench, FEW + 5)
    assert bench.look("SELECT count(*) FROM sluice.handler_deaths") == [(0,)]
