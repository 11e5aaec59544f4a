"""Dead letters as an operator sees and settles them, on a real Postgres: statements, and the commands."""

import json
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

import db.letter_admin
import db.letter_listing
import db.open_letters
import ops.dlq.changes
from db.audit import Decision
from db.errors import DeploymentBroken
from db.letter_admin import drop_keyless, resolve_conflicts
from db.letter_listing import Chosen, count_letters, read_letters
from db.open_letters import OpenLetters, count_parked, read_head, read_keyless, read_open_entities
from db.session import BATCH_PLANS, Session
from db.whole_letters import count_behind, read_behind, read_whole_letters
from ops.cli import app
from ops.decisions import NotDone
from ops.dlq.changes import drop_letter, redrive_rest
from tasks.api import Entity, Topic
from tasks.redrive import LETTERS, Redriver
from tasks.wire import Record
from tests.db import applying
from tests.db.applying import TOPIC, Bench, create_tables, slice_of, thing_set
from tests.mutants import mutated

WHY = ("--reason", "test")
Run = Callable[..., str]


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    made = Bench(database_url)
    yield made
    made.close()


@pytest.fixture
def session(bench: Bench) -> Session:
    return bench.looking


@pytest.fixture
def redriver(bench: Bench, database_url: str) -> Iterator[Redriver]:
    opened = Session(database_url, application_name="test redrive", plans=BATCH_PLANS)
    yield Redriver(opened, bench.registry)
    opened.close()


@pytest.fixture
def run(bench: Bench, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `sluice …` in this process; what it printed."""
    module = ModuleType("applying_things")
    for name in ("set_thing", "add_part", "break_thing", "notify", "things"):
        setattr(module, name, getattr(applying, name))
    module.topics = (Topic(TOPIC, entity=Entity("thing", 1)),)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "applying_things", module)
    monkeypatch.setenv("COLUMNS", "250")
    environ = {
        "SLUICE_DATABASE_URL": database_url,
        "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
        "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "SLUICE_HANDLERS": "applying_things",
    }

    def run(*words: str, exit_code: int = 0) -> str:
        result = CliRunner().invoke(app, words, env=environ)
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


def refused(offset: int, key: str = "k") -> Record:
    """Postgres refuses it until `allow`."""
    return thing_set(offset, key, amount=-1)


def allow(bench: Bench) -> None:
    """What a deployment that fixes the cause does."""
    bench.look("ALTER TABLE things DROP CONSTRAINT amount_not_negative")


def keyless(offset: int) -> Record:
    """A record that names no entity, and is refused."""
    record = refused(offset)
    return Record(record.offset, record.timestamp_ms, None, record.value, record.headers)


def fill(bench: Bench) -> None:
    """1 dead (k), 2 and 3 waiting behind it, 4 dead (other), 5 a conflict, 6 dead without an entity.

    Of those that wait 2 is good and 3 would be refused, too: constraints judge what a batch comes to.
    """
    bench.apply(slice_of([refused(0)]))
    bench.apply(slice_of([thing_set(1, amount=5), thing_set(2, amount=-2)], prev=0))
    bench.apply(slice_of([refused(3, "other")], prev=2))
    # The same identity, other data.
    bench.apply(slice_of([thing_set(4, "c", amount=1), thing_set(5, "c", amount=2, event_id="e4")], prev=3))
    bench.apply(slice_of([keyless(6)], prev=5))
    assert bench.look("SELECT id, outcome, entity_key FROM sluice.dead_letters ORDER BY id") == [
        (1, "dead", "k"),
        (2, "waiting", "k"),
        (3, "waiting", "k"),
        (4, "dead", "other"),
        (5, "conflict", "c"),
        (6, "dead", None),
    ]


def states(bench: Bench) -> dict[int, str]:
    return dict(bench.look("SELECT id, state FROM sluice.dead_letters ORDER BY id"))


def audits(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.look("SELECT verb, subject, reason FROM sluice.audit ORDER BY id")


def test_letters_are_counted_and_listed_by_what_is_chosen(bench: Bench, session: Session) -> None:
    fill(bench)
    bench.look("UPDATE sluice.dead_letters SET created_at = now() - interval '1 hour' WHERE id = 4")

    def ids(chosen: Chosen, after: int = 0, limit: int = 10) -> list[int]:
        found = [letter.id for letter in read_letters(session, chosen, after=after, limit=limit)]
        whole = [letter.id for letter in read_whole_letters(session, chosen, after=after, limit=limit)]
        assert found == whole
        return found

    assert ids(Chosen()) == [1, 2, 3, 4, 5, 6]
    assert ids(Chosen(), after=2, limit=2) == [3, 4]
    assert ids(Chosen(ids=(6, 2))) == [2, 6]
    assert ids(Chosen(state="waiting")) == [2, 3]
    assert ids(Chosen(topic=TOPIC, entity="thing", entity_key="other")) == [4]
    assert ids(Chosen(error_class="CheckViolation")) == [1, 4]
    assert ids(Chosen(type="thing.set", state="dead")) == [1, 4, 5, 6]
    assert ids(Chosen(older_than_seconds=60)) == [4]
    for nothing in (Chosen(topic="x"), Chosen(entity="x"), Chosen(type="x"), Chosen(ids=(99,))):
        assert ids(nothing) == []
    counts = {
        (one.error_class, one.state, one.outcome): one.letters for one in count_letters(session, Chosen())
    }
    assert counts["CheckViolation", "dead", "dead"] == 2
    assert sum(counts.values()) == 6
    assert count_parked(session) == 2


def test_what_waits_behind_a_letter_is_known(bench: Bench, session: Session) -> None:
    fill(bench)
    behind = {one.id: one.behind for one in read_letters(session, Chosen(), after=0, limit=10)}
    assert behind == {1: 2, 2: None, 3: None, 4: 0, 5: None, 6: 0}
    [first] = read_whole_letters(session, Chosen(ids=(1,)), after=0, limit=1)
    assert [one.id for one in read_behind(session, first, limit=1)] == [2]
    assert count_behind(session, first) == 2
    assert first.parked is not None
    assert json.loads(bytes(first.value or b""))["data"] == {"amount": -1}
    assert (read_head(session, "thing", "k"), read_head(session, "thing", "c")) == (1, None)
    # A conflict or a settled letter of the entity is not its head, and has nothing behind it.
    bench.look("UPDATE sluice.dead_letters SET state = 'dropped' WHERE id = 1")
    assert read_head(session, "thing", "k") == 2
    assert read_letters(session, Chosen(ids=(1,)), after=0, limit=1)[0].behind is None


def test_the_entities_of_the_chosen_letters_come_with_all_that_is_open_of_them(
    bench: Bench, session: Session
) -> None:
    fill(bench)
    everything = read_open_entities(session, Chosen(), limit=10)
    assert everything == [
        OpenLetters("thing", "k", 1, 2),
        OpenLetters("thing", "other", 1, 0),
    ]
    assert read_open_entities(session, Chosen(ids=(3,)), limit=10) == everything[:1]
    assert read_open_entities(session, Chosen(ids=(5,)), limit=10) == []
    assert read_open_entities(session, Chosen(), limit=1) == everything[:1]
    assert read_keyless(session, Chosen(), limit=10) == [(6, "thing")]
    assert read_keyless(session, Chosen(ids=(1, 5)), limit=10) == []


@pytest.mark.parametrize("state", ["dead", "waiting", "dropped", "done"])
@pytest.mark.parametrize("outcome", ["dead", "waiting", "conflict"])
def test_only_open_conflicts_are_resolved_and_only_dead_keyless_letters_dropped(
    bench: Bench, session: Session, outcome: str, state: str
) -> None:
    fill(bench)
    bench.look(f"UPDATE sluice.dead_letters SET state = '{state}', outcome = '{outcome}'")
    open_conflict = outcome == "conflict" and state == "dead"
    assert resolve_conflicts(session, [1, 5]) == ({1, 5} if open_conflict else set())
    assert resolve_conflicts(session, [1, 5]) == set()
    assert drop_keyless(session, 6) == (outcome == state == "dead")
    assert not drop_keyless(session, 4), "it has an entity"


def test_ls_and_show_say_what_failed(bench: Bench, run: Run) -> None:
    assert run("dlq", "ls") == "no such letter is dead\n"
    fill(bench)
    shown = run("dlq", "ls")
    assert "dead (conflict)" in shown
    assert f"{TOPIC}:0:3" in shown
    assert f"{TOPIC}:0:1" not in shown, "it waits, and is not dead"
    assert "there may be more: --after 1" in run("dlq", "ls", "--limit", "1")
    document = json.loads(run("dlq", "ls", "--limit", "2", "--after", "1", "--json"))
    assert [one["id"] for one in document["letters"]] == [4, 5]
    assert document["next_after"] == 5
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


def test_redrive_says_what_would_happen_then_what_blocks_then_applies(bench: Bench, run: Run) -> None:
    fill(bench)
    planned = run("dlq", "redrive", "--all", *WHY, "--dry-run")
    assert "thing/k: 1 dead, 2 waiting\n" in planned
    assert "thing, 6: dead, names no entity\n" in planned
    assert "say --yes" in run("dlq", "redrive", "--all", *WHY, exit_code=2)
    assert audits(bench) == []
    blocked = json.loads(run("dlq", "redrive", "1", *WHY, "--yes", "--json", exit_code=1).splitlines()[-1])
    [one] = blocked["redriven"]
    assert "CheckViolation" in one["blocked_by"]
    assert not one["unparked"]
    assert bench.look("SELECT id, attempts FROM sluice.dead_letters WHERE attempts > 1") == [(1, 2)]
    allow(bench)
    # An entity in which nothing is dead was told to wait: it takes --state, or its ID.
    bench.look(
        "INSERT INTO sluice.parked_entities SELECT entity, 'paused', queue, 'by hand' FROM sluice.queues"
    )
    bench.apply(slice_of([thing_set(7, "paused")], prev=6))
    done = run("dlq", "redrive", "--all", *WHY, "--yes", exit_code=1)
    assert "paused" not in done
    assert f"thing, 6: 1 dead; blocked by {TOPIC}:0:6 Rejected" in done
    assert "thing/k: 3 applied; unparked\n" in done
    assert "thing/other: 1 applied; unparked\n" in done
    assert bench.amounts() == {"k": -2, "other": -1, "c": 1}
    settled = {1: "done", 2: "done", 3: "done", 4: "done", 5: "dead", 6: "dead"}
    assert states(bench) == {**settled, 7: "waiting"}
    assert audits(bench) == [
        ("dlq redrive", subject, "test") for subject in ("thing/k", "thing/k", "thing/other", "6")
    ]
    assert "no such letter is dead or waiting" in run("dlq", "redrive", "1", *WHY, "--yes")
    assert "thing/paused: 1 applied; unparked" in run(
        "dlq", "redrive", "--all", "--state", "waiting", *WHY, "--yes"
    )


def test_a_letter_without_an_entity_is_redriven_alone(bench: Bench, run: Run) -> None:
    fill(bench)
    allow(bench)
    # What a handler comes to that needs no key, as far as this table goes.
    bench.look("UPDATE sluice.dead_letters SET key = 'z' WHERE id = 6")
    done = json.loads(run("dlq", "redrive", "6", *WHY, "--yes", "--json").splitlines()[-1])
    assert (done["entities"], done["without_entity"]) == ([], [6])
    assert [(one["key"], one["id"], one["outcomes"]) for one in done["redriven"]] == [
        (None, 6, {"applied": 1})
    ]
    assert states(bench) == {1: "dead", 2: "waiting", 3: "waiting", 4: "dead", 5: "dead", 6: "done"}
    assert audits(bench) == [("dlq redrive", "6", "test")]


def test_a_broken_deployment_is_one_sentence(bench: Bench, redriver: Redriver, run: Run) -> None:
    fill(bench)
    bench.look("ALTER TABLE things RENAME TO elsewhere")
    assert "there is no dead letter 99" in run("dlq", "redrive", "1", "99", *WHY, "--yes", exit_code=2)
    said = run("dlq", "redrive", "1", *WHY, "--yes", exit_code=2)
    assert "sluice: thing/k: the deployment is broken: relation" in said
    bench.look(
        "DELETE FROM sluice.lane_progress; DELETE FROM sluice.parked_entities; DELETE FROM sluice.queues"
    )
    with pytest.raises(NotDone, match="run `sluice init`") as raised:
        redrive_rest(redriver, "thing", "k")
    assert isinstance(raised.value.__cause__, DeploymentBroken)


def test_only_the_head_is_dropped_and_those_behind_it_are_applied(bench: Bench, run: Run) -> None:
    fill(bench)
    assert "2 waits behind 1" in run("dlq", "drop", "2", *WHY, "--yes", exit_code=2)
    assert "5 is a conflict" in run("dlq", "drop", "5", *WHY, "--yes", exit_code=2)
    assert "1 would be dropped" in run("dlq", "drop", "1", *WHY, "--dry-run")
    assert "say --yes" in run("dlq", "drop", "1", *WHY, exit_code=2)
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


def test_one_behind_a_dropped_one_that_dies_blocks(bench: Bench, run: Run) -> None:
    fill(bench)
    said = run("dlq", "drop", "1", *WHY, "--yes", exit_code=1)
    assert f"thing/k: 1 applied, 1 dead; blocked by {TOPIC}:0:2 CheckViolation" in said
    assert states(bench) == {1: "dropped", 2: "done", 3: "dead", 4: "dead", 5: "dead", 6: "dead"}
    assert bench.amounts() == {"k": 5, "c": 1}
    assert count_parked(bench.looking) == 2


def test_dropped_alone_those_behind_go_on_waiting(bench: Bench, run: Run) -> None:
    fill(bench)
    allow(bench)
    run("dlq", "drop", "1", "--no-redrive", *WHY, "--yes")
    assert states(bench)[2] == "waiting"
    assert count_parked(bench.looking) == 2
    bench.apply(slice_of([thing_set(7, amount=9)], prev=6))
    again = ("dlq", "redrive", "--all", "--state", "waiting", *WHY, "--yes")
    assert "thing/k: 3 applied; unparked" in run(*again)
    # With nothing behind it nothing is left to wait for.
    run("dlq", "drop", "4", "--no-redrive", *WHY, "--yes")
    assert count_parked(bench.looking) == 0


def test_more_than_one_transaction_holds_is_redriven_to_its_end(bench: Bench, redriver: Redriver) -> None:
    bench.apply(slice_of([refused(0)]))
    bench.apply(slice_of([thing_set(n, amount=n) for n in range(1, LETTERS + 10)], prev=0))
    allow(bench)
    done = redrive_rest(redriver, "thing", "k")
    assert dict(done.outcomes) == {"applied": LETTERS + 10}
    assert done.unparked


def test_a_drop_that_comes_too_late_says_so_and_is_kept_as_not_done(
    bench: Bench, session: Session, redriver: Redriver
) -> None:
    fill(bench)
    letters = read_whole_letters(session, Chosen(ids=(1, 6)), after=0, limit=2)
    allow(bench)
    redrive_rest(redriver, "thing", "k")
    bench.look("UPDATE sluice.dead_letters SET state = 'dropped' WHERE id = 6")
    for letter in letters:
        with pytest.raises(NotDone, match="it moved meanwhile"):
            drop_letter(session, redriver, letter, Decision("ann", "dlq drop", "test"))
    assert states(bench)[1] == "done"
    found = bench.look("SELECT subject, details ? 'not_done' FROM sluice.audit ORDER BY id")
    assert found == [("1", False), ("1", True)]


def test_conflicts_are_marked_as_seen_and_nothing_else(bench: Bench, run: Run) -> None:
    fill(bench)
    assert "5 would be resolved" in run("dlq", "resolve", "5", *WHY, "--dry-run")
    assert states(bench)[5] == "dead"
    said = run("dlq", "resolve", "1", "5", *WHY, exit_code=1)
    assert "1, left as it is: no open conflict, but dead" in said
    assert "5 is resolved" in said
    assert states(bench) == {1: "dead", 2: "waiting", 3: "waiting", 4: "dead", 5: "done", 6: "dead"}
    assert audits(bench) == [("dlq resolve", "5", "test")]
    assert json.loads(run("dlq", "resolve", "5", *WHY, "--json", exit_code=1))["left"] == [5]


def test_letters_are_exported_page_by_page(bench: Bench, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.dlq.exporting.PAGE_LETTERS", 2)
    fill(bench)
    lines = [json.loads(line) for line in run("dlq", "export", "--all").splitlines()]
    assert [line["value"]["version"] for line in lines] == [0, 1, 2, 3, 5, 6]
    assert [line["key"] for line in lines] == ["k", "k", "k", "other", "c", None]
    assert len(run("dlq", "export", "4").splitlines()) == 1
    assert len(run("dlq", "export", "--all", "--state", "waiting").splitlines()) == 2


def test_decisions_are_listed_newest_first(bench: Bench, run: Run) -> None:
    assert run("audit", "ls") == "nothing was decided by hand\n"
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


Check = Callable[[Any, Bench, Redriver], bool]


def resolves_conflicts_alone(module: Any, bench: Bench, redriver: Redriver) -> bool:
    found: set[int] = module.resolve_conflicts(bench.looking, [1, 2, 4, 5, 6])
    return found == {5} and module.resolve_conflicts(bench.looking, [5]) == set()


def drops_keyless_alone(module: Any, bench: Bench, redriver: Redriver) -> bool:
    return not module.drop_keyless(bench.looking, 4)


def knows_the_head(module: Any, bench: Bench, redriver: Redriver) -> bool:
    return module.read_head(bench.looking, "thing", "c") is None


def counts_those_behind(module: Any, bench: Bench, redriver: Redriver) -> bool:
    bench.look("UPDATE sluice.dead_letters SET state = 'done' WHERE id = 2")
    found = module.read_letters(bench.looking, Chosen(), after=0, limit=10)
    return [one.behind for one in found] == [1, None, None, 0, None, 0]


def goes_on_to_the_end(module: Any, bench: Bench, redriver: Redriver) -> bool:
    bench.apply(slice_of([thing_set(n, amount=n) for n in range(7, LETTERS + 10)], prev=6))
    allow(bench)
    done: bool = module.redrive_rest(redriver, "thing", "k").unparked
    return done


def refuses_what_waits(module: Any, bench: Bench, redriver: Redriver) -> bool:
    [letter] = read_whole_letters(bench.looking, Chosen(ids=(2,)), after=0, limit=1)
    try:
        module.require_droppable(bench.looking, letter)
    except NotDone:
        return True
    return False


def has_its_reason(module: Any, bench: Bench, redriver: Redriver) -> bool:
    [letters] = read_open_entities(bench.looking, Chosen(ids=(1,)), limit=1)
    bench.look(
        "DELETE FROM sluice.lane_progress; DELETE FROM sluice.parked_entities; DELETE FROM sluice.queues"
    )
    try:
        module.redrive_entity(bench.looking, redriver, letters, Decision("ann", "dlq redrive", "why"))
    except NotDone:
        return len(audits(bench)) == 1
    return False


_AUDITED = """    with session.transaction():
        insert_audits(session, decision, [(f"{letters.entity}/{letters.entity_key}", details)])
    return redrive_rest(redriver, letters.entity, letters.entity_key, tried=tried)"""
_LATE = """    done = redrive_rest(redriver, letters.entity, letters.entity_key)
    with session.transaction():
        insert_audits(session, decision, [(f"{letters.entity}/{letters.entity_key}", details)])
    return done"""
MUTANTS: dict[str, tuple[ModuleType, str, str, Check]] = {
    "resolves what is no conflict": (
        db.letter_admin,
        "AND state = 'dead' AND outcome = 'conflict'",
        "AND state = 'dead'",
        resolves_conflicts_alone,
    ),
    "resolves again what is resolved": (
        db.letter_admin,
        "AND state = 'dead' AND outcome = 'conflict'",
        "AND outcome = 'conflict'",
        resolves_conflicts_alone,
    ),
    "drops a letter with an entity as if it had none": (
        db.letter_admin,
        " AND entity_key IS NULL",
        "",
        drops_keyless_alone,
    ),
    "takes a conflict for the head": (
        db.open_letters,
        "state IN ('dead', 'waiting') AND outcome <> 'conflict'\n    ORDER BY id LIMIT 1",
        "state IN ('dead', 'waiting')\n    ORDER BY id LIMIT 1",
        knows_the_head,
    ),
    "counts what is settled, too": (
        db.letter_listing,
        " AND b.state = 'waiting'",
        "",
        counts_those_behind,
    ),
    "ends after one transaction": (
        ops.dlq.changes,
        "if once.blocked_by or once.unparked or not once.outcomes:",
        "if True:",
        goes_on_to_the_end,
    ),
    "drops what waits": (
        ops.dlq.changes,
        "        if head != letter.id:",
        "        if False:",
        refuses_what_waits,
    ),
    "gives the reason afterwards": (ops.dlq.changes, _AUDITED, _LATE, has_its_reason),
}


@pytest.mark.parametrize("is_mutant", [False, True], ids=["code", "mutant"])
@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_told_from_the_code(
    bench: Bench, redriver: Redriver, name: str, is_mutant: bool
) -> None:
    module, old, new, holds = MUTANTS[name]
    fill(bench)
    copy = mutated(module, old, new)
    assert holds(copy if is_mutant else module, bench, redriver) != is_mutant
