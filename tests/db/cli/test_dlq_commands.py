"""`sluice dlq` and `sluice audit` on a real Postgres: what the commands print and change."""

import json

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.redrive import drop_letter, redrive_rest
from sluice.db.admin.audit import Decision
from sluice.db.admin.letter_details import read_whole_letters
from sluice.db.admin.letters import Chosen, count_parked
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken
from sluice.tasks.letter_redriver import LETTERS
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying, failing
from tests.db.tasks.applying import TOPIC, Bench, slice_of, thing_set
from tests.db.tasks.failing import WHY, Run, allow, audits, fill, refused, states

bench = applying.bench
session, redriver, run = failing.session, failing.redriver, failing.run


def test_ls_and_show_print_the_errors(bench: Bench, run: Run) -> None:
    assert run("dlq", "ls") == "no dead letters\n"
    fill(bench)
    shown = run("dlq", "ls")
    assert "dead (conflict)" in shown
    assert f"{TOPIC}:0:3" in shown
    assert f"{TOPIC}:0:1" not in shown, "this letter waits and is not dead"
    assert "there may be more rows; to see them, pass --after 6" in run("dlq", "ls", "--limit", "1")
    document = json.loads(run("dlq", "ls", "--limit", "2", "--after", "6", "--json"))
    assert [one["id"] for one in document["letters"]] == [5, 4]
    assert document["next_after"] == 4
    whole = json.loads(run("dlq", "show", "1", "--json"))
    assert (whole["value"]["data"], whole["key"], whole["error_class"]) == (
        {"amount": -1},
        "k",
        "CheckViolation",
    )
    assert (whole["behind"], [one["id"] for one in whole["behind_first"]]) == (2, [2, 3])
    assert whole["parked"]
    assert "error class: CheckViolation\n" in run("dlq", "show", "1")
    assert "there is no dead letter 99" in run("dlq", "show", "99", exit_code=2)


def test_redrive_prints_the_plan_then_the_blocking_error_then_applies(bench: Bench, run: Run) -> None:
    fill(bench)
    planned = run("dlq", "redrive", "--all", *WHY, "--dry-run")
    assert "thing/k: 1 dead, 2 waiting\n" in planned
    assert "thing, 6: dead, and its record names no entity\n" in planned
    assert "pass --yes" in run("dlq", "redrive", "--all", *WHY, exit_code=2)
    assert audits(bench) == []
    blocked = json.loads(run("dlq", "redrive", "1", *WHY, "--yes", "--json", exit_code=1).splitlines()[-1])
    [one] = blocked["redriven"]
    assert "CheckViolation" in one["blocked_by"]
    assert not one["unparked"]
    assert bench.look("SELECT id, attempts FROM sluice.dead_letters WHERE attempts > 1") == [(1, 2)]
    allow(bench)
    # An entity that was paused, and has no dead letter, is redriven only with --state waiting or the ID of a
    # letter.
    bench.look(
        "INSERT INTO sluice.parked_entities SELECT entity, 'paused', queue, 'by hand' FROM sluice.queues"
    )
    bench.apply(slice_of([thing_set(7, "paused")], prev=6))
    done = run("dlq", "redrive", "--all", *WHY, "--yes", exit_code=1)
    assert "paused" not in done
    assert f"thing, 6: 1 dead; blocked by {TOPIC}:0:6 EffectRefused" in done
    assert "thing/k: 3 applied; unparked\n" in done
    assert "thing/other: 1 applied; unparked\n" in done
    assert bench.amounts() == {"k": -2, "other": -1, "c": 1}
    settled = {1: "done", 2: "done", 3: "done", 4: "done", 5: "dead", 6: "dead"}
    assert states(bench) == {**settled, 7: "waiting"}
    assert audits(bench) == [
        ("dlq redrive", subject, "test") for subject in ("thing/k", "thing/k", "thing/other", "6", "5")
    ]
    assert "no dead or waiting letters" in run("dlq", "redrive", "1", *WHY, "--yes")
    assert "thing/paused: 1 applied; unparked" in run(
        "dlq", "redrive", "--all", "--state", "waiting", *WHY, "--yes"
    )


def test_a_letter_without_an_entity_is_redriven_alone(bench: Bench, run: Run) -> None:
    fill(bench)
    allow(bench)
    # After the UPDATE, the handler succeeds, because the record has a key. The letter still names no entity.
    bench.look("UPDATE sluice.dead_letters SET key = 'z' WHERE id = 6")
    done = json.loads(run("dlq", "redrive", "6", *WHY, "--yes", "--json").splitlines()[-1])
    assert (done["entities"], done["without_entity"]) == ([], [6])
    assert [(one["key"], one["id"], one["outcomes"]) for one in done["redriven"]] == [
        (None, 6, {"applied": 1})
    ]
    assert states(bench) == {1: "dead", 2: "waiting", 3: "waiting", 4: "dead", 5: "dead", 6: "done"}
    assert audits(bench) == [("dlq redrive", "6", "test")]


def test_a_missing_table_is_reported_in_one_sentence(bench: Bench, redriver: Redriver, run: Run) -> None:
    fill(bench)
    bench.look("ALTER TABLE things RENAME TO elsewhere")
    assert "there is no dead letter 99" in run("dlq", "redrive", "1", "99", *WHY, "--yes", exit_code=2)
    said = run("dlq", "redrive", "1", *WHY, "--yes", exit_code=2)
    assert "sluice: thing/k: the deployment is broken: relation" in said
    bench.look(
        "DELETE FROM sluice.lane_offsets; DELETE FROM sluice.parked_entities; DELETE FROM sluice.queues"
    )
    with pytest.raises(OperationRefused, match="run `sluice init`") as raised:
        redrive_rest(redriver, "thing", "k")
    assert isinstance(raised.value.__cause__, DeploymentBroken)


def test_only_the_first_letter_is_dropped_and_the_letters_behind_it_are_applied(
    bench: Bench, run: Run
) -> None:
    fill(bench)
    assert "2 is not the first letter of its entity" in run("dlq", "drop", "2", *WHY, "--yes", exit_code=2)
    assert "5 is a conflict" in run("dlq", "drop", "5", *WHY, "--yes", exit_code=2)
    assert "1 would be dropped" in run("dlq", "drop", "1", *WHY, "--dry-run")
    assert "pass --yes" in run("dlq", "drop", "1", *WHY, exit_code=2)
    assert states(bench)[1] == "dead"
    assert audits(bench) == []
    allow(bench)
    assert "thing/k: 2 applied; unparked" in run("dlq", "drop", "1", *WHY, "--yes")
    assert bench.amounts() == {"k": -2, "c": 1}
    assert states(bench) == {1: "dropped", 2: "done", 3: "done", 4: "dead", 5: "dead", 6: "dead"}
    assert "1 is dropped: there is nothing to drop" in run("dlq", "drop", "1", *WHY, "--yes", exit_code=2)
    assert "6 is dropped" in run("dlq", "drop", "6", *WHY, "--yes")
    assert audits(bench) == [("dlq drop", "1", "test"), ("dlq drop", "6", "test")]
    assert count_parked(bench.looking) == 1


def test_a_letter_that_fails_behind_a_dropped_letter_blocks_its_entity(bench: Bench, run: Run) -> None:
    fill(bench)
    said = run("dlq", "drop", "1", *WHY, "--yes", exit_code=1)
    assert f"thing/k: 1 applied, 1 dead; blocked by {TOPIC}:0:2 CheckViolation" in said
    assert states(bench) == {1: "dropped", 2: "done", 3: "dead", 4: "dead", 5: "dead", 6: "dead"}
    assert bench.amounts() == {"k": 5, "c": 1}
    assert count_parked(bench.looking) == 2


def test_after_a_drop_without_redrive_the_letters_behind_still_wait(bench: Bench, run: Run) -> None:
    fill(bench)
    allow(bench)
    run("dlq", "drop", "1", "--no-redrive", *WHY, "--yes")
    assert states(bench)[2] == "waiting"
    assert count_parked(bench.looking) == 2
    bench.apply(slice_of([thing_set(7, amount=9)], prev=6))
    again = ("dlq", "redrive", "--all", "--state", "waiting", *WHY, "--yes")
    assert "thing/k: 3 applied; unparked" in run(*again)
    # No letter waits behind letter 4, so the entity of letter 4 is unparked.
    run("dlq", "drop", "4", "--no-redrive", *WHY, "--yes")
    assert count_parked(bench.looking) == 0


def test_more_letters_than_fit_in_one_transaction_are_all_redriven(bench: Bench, redriver: Redriver) -> None:
    bench.apply(slice_of([refused(0)]))
    bench.apply(slice_of([thing_set(n, amount=n) for n in range(1, LETTERS + 10)], prev=0))
    allow(bench)
    done = redrive_rest(redriver, "thing", "k")
    assert dict(done.outcomes) == {"applied": LETTERS + 10}
    assert done.unparked


def test_a_drop_of_a_letter_that_changed_meanwhile_is_refused_and_audited(
    bench: Bench, session: Session, redriver: Redriver
) -> None:
    fill(bench)
    letters = read_whole_letters(session, Chosen(ids=(1, 6)), after=0, limit=2)
    allow(bench)
    redrive_rest(redriver, "thing", "k")
    bench.look("UPDATE sluice.dead_letters SET state = 'dropped' WHERE id = 6")
    for letter in letters:
        with pytest.raises(OperationRefused, match="its state changed meanwhile"):
            drop_letter(session, redriver, letter, Decision("ann", "dlq drop", "test"))
    assert states(bench)[1] == "done"
    found = bench.look("SELECT subject, details ? 'not_done' FROM sluice.audit ORDER BY id")
    assert found == [("1", False), ("1", True)]


def test_resolve_changes_only_conflicts(bench: Bench, run: Run) -> None:
    fill(bench)
    assert "5 would be resolved" in run("dlq", "resolve", "5", *WHY, "--dry-run")
    assert states(bench)[5] == "dead"
    said = run("dlq", "resolve", "1", "5", *WHY, exit_code=1)
    assert "1 is not changed: it is not an open conflict, but dead" in said
    assert "5 is resolved" in said
    assert states(bench) == {1: "dead", 2: "waiting", 3: "waiting", 4: "dead", 5: "done", 6: "dead"}
    assert audits(bench) == [("dlq resolve", "5", "test")]
    assert json.loads(run("dlq", "resolve", "5", *WHY, "--json", exit_code=1))["left"] == [5]


def test_letters_are_exported_page_by_page(bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.admin.letters.PAGE_LETTERS", 2)
    fill(bench)
    lines = [json.loads(line) for line in run("dlq", "export", "--all").splitlines()]
    assert [line["value"]["version"] for line in lines] == [0, 1, 2, 3, 5, 6]
    assert [line["key"] for line in lines] == ["k", "k", "k", "other", "c", None]
    assert len(run("dlq", "export", "4").splitlines()) == 1
    assert len(run("dlq", "export", "--all", "--state", "waiting").splitlines()) == 2


def test_decisions_are_listed_newest_first(bench: Bench, run: Run) -> None:
    assert run("audit", "ls") == "no decision found\n"
    fill(bench)
    run("dlq", "resolve", "5", *WHY)
    run("dlq", "drop", "6", "--reason", "no use", "--yes")
    found = json.loads(run("audit", "ls", "--json"))["audit"]
    assert [one["verb"] for one in found] == ["dlq drop", "dlq resolve"]
    assert found[0]["details"] == {"record": [TOPIC, 0, 6]}
    for words, count in (
        (("--verb", "dlq"), 2),
        (("--verb", "dlq drop"), 1),
        (("--verb", "dl"), 0),
        (("--subject", "5"), 1),
        (("--limit", "1"), 1),
    ):
        assert len(json.loads(run("audit", "ls", *words, "--json"))["audit"]) == count
    assert "no use" in run("audit", "ls")
