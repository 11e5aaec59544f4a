"""Faults of the event make a dead letter, faults of the deployment halt the queue, others are retried."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sluice.db.connection import BATCH_PLANS, Session
from sluice.tasks.apply import retry_policy
from sluice.tasks.apply.apply import Applier
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.apply.set_aside_rules import RetryLimits
from tests.db.tasks.applying import Bench, create_tables, slice_of, thing_set
from tests.waiting import wait_until

RECORDS = [thing_set(0, "a", 1), thing_set(1, "bad", 2), thing_set(2, "b", 3)]
ALL = {"a": 1, "bad": 2, "b": 3}
LIMITS = {"lock_timeout": "200ms", "statement_timeout": "500ms"}


@pytest.fixture
def bench(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Yields a bench. Its session has short timeouts."""
    monkeypatch.setattr(retry_policy, "FIRST_PAUSE_SECONDS", 0.01)
    create_tables(database_url)
    made = Bench(database_url)
    made.session.close()
    made.session = Session(database_url, application_name="test faults", plans=BATCH_PLANS, settings=LIMITS)
    # After an event was set aside, every message retries the event.
    made.applier = Applier(made.session, made.registry, RetryLimits(first_pause_seconds=0.01, share=0.9))
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a task give up its batch after the first failures."""
    monkeypatch.setattr(retry_policy, "PATIENCE_SECONDS", 0.1)


def trigger(body: str, when: str = "INSERT OR UPDATE") -> str:
    """Returns the SQL for a trigger that runs before each write of a row."""
    return f"""
        CREATE FUNCTION public.disturb() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
        CREATE TRIGGER disturb BEFORE {when} ON public.things FOR EACH ROW EXECUTE FUNCTION public.disturb()
    """


# Raises an error for each row whose name is `raise` plus an error code. The error has this code.
RAISING = trigger(
    """IF NEW.name LIKE 'raise%' THEN
           RAISE EXCEPTION 'disturbed' USING ERRCODE = substr(NEW.name, 6);
       END IF;
       RETURN NEW;"""
)


MEND = "DROP FUNCTION public.disturb() CASCADE"
NULL_FOR_BAD = "IF NEW.thing_id = 'bad' THEN RETURN NULL; END IF; RETURN NEW;"


@dataclass(frozen=True)
class Case:
    """The SQL that disturbs the table, the SQL that restores the table, and a text of the halt or letter."""

    disturb: str
    mend: str = MEND
    words: str = "disturbed"


EVENT_CODES = [
    "22023", "23514", "38000", "39000", "44000", "54000", "P0001", "P0002", "P0004", "ZZ001",
    "99999",
]  # fmt: skip
LETTERS = {
    "a constraint": Case(
        "ALTER TABLE things ADD CONSTRAINT no_bad CHECK (thing_id <> 'bad')",
        "ALTER TABLE things DROP CONSTRAINT no_bad",
        "no_bad",
    ),
    "a trigger that returns NULL for one row": Case(trigger(NULL_FOR_BAD), words="Postgres wrote 0 of 1"),
    "an index row that is too long": Case(
        "CREATE INDEX wide ON things ((repeat(md5(thing_id), CASE thing_id WHEN 'bad' THEN 9999 END)))",
        "DROP INDEX wide",
        "index row",
    ),
}  # fmt: skip


def test_error_codes_of_the_event_make_dead_letters(bench: Bench) -> None:
    bench.look(RAISING)
    bad = [thing_set(n, f"bad{n}", name=f"raise{code}") for n, code in enumerate(EVENT_CODES)]
    good = [thing_set(len(bad) + n, f"good{n}") for n in range(3)]
    assert bench.apply(slice_of([*bad, *good])) is not None
    assert bench.outcomes() == {"applied": 3, "dead": len(bad)}
    assert bench.look("SELECT DISTINCT split_part(error_text, E'\\n', 1) FROM sluice.dead_letters") == [
        ("disturbed",)
    ]


@pytest.mark.parametrize("case", LETTERS.values(), ids=LETTERS)
def test_a_fault_of_an_event_makes_a_dead_letter_and_other_events_are_applied(
    bench: Bench, case: Case
) -> None:
    bench.look(case.disturb)
    applied = bench.apply(slice_of(RECORDS))
    assert applied is not None
    assert applied.outcomes == {"applied": 2, "dead": 1}
    [(key, text)] = bench.look("SELECT entity_key, error_text FROM sluice.dead_letters")
    assert key == "bad"
    assert case.words in text
    assert bench.amounts() == {"a": 1, "b": 3}
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]


DEPLOYMENT_CODES = [
    "42P01", "42501", "3F000", "55000", "55006", "0A000", "26000", "21000", "25P02", "F0000",
    "XX000",
]  # fmt: skip
HALTS = {
    "a table that is missing": Case(
        "ALTER TABLE things RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO things", "does not exist"
    ),
    "a schema that is missing": Case(
        "ALTER SCHEMA public RENAME TO elsewhere", "ALTER SCHEMA elsewhere RENAME TO public", "does not exist"
    ),
    "a column that is missing": Case(
        "ALTER TABLE things RENAME amount TO sum", "ALTER TABLE things RENAME sum TO amount", "does not exist"
    ),
    "a trigger that returns NULL for every row": Case(
        trigger("RETURN NULL;"), words="things: Postgres wrote 0 of"
    ),
    "a rule": Case(
        "CREATE RULE keep AS ON INSERT TO things DO INSTEAD NOTHING", "DROP RULE keep ON things", "a rule"
    ),
}  # fmt: skip


def test_error_codes_of_the_deployment_halt_the_queue(bench: Bench) -> None:
    bench.look(RAISING)
    for code in DEPLOYMENT_CODES:
        bench.look("UPDATE sluice.queues SET halted_reason = NULL")
        assert bench.apply(slice_of([thing_set(0, "bad", 2, name=f"raise{code}")])) is None
        [(reason,)] = bench.look("SELECT halted_reason FROM sluice.queues")
        assert "disturbed" in (reason or ""), code
    bench.look(MEND)
    assert bench.apply(slice_of(RECORDS)) is not None
    assert bench.amounts() == ALL


@pytest.mark.parametrize("case", HALTS.values(), ids=HALTS)
def test_a_fault_of_the_deployment_halts_the_queue_until_it_is_corrected(bench: Bench, case: Case) -> None:
    bench.look(case.disturb)
    assert bench.apply(slice_of(RECORDS)) is None
    [(reason,)] = bench.look("SELECT halted_reason FROM sluice.queues")
    assert case.words in reason
    assert bench.look("SELECT count(*) FROM sluice.dead_letters") == [(0,)]
    bench.look(case.mend)
    assert bench.apply(slice_of(RECORDS)) is not None
    assert bench.amounts() == ALL
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]


SURROUNDINGS_CODES = [
    "08006", "25006", "25P03", "25P04", "28000", "3D000", "40001", "40P01", "53100", "53200",
    "53300", "55P03", "57014", "57P01", "57P03", "58000", "58030",
]  # fmt: skip
PASSES = {
    "a statement that takes too long": Case(
        trigger("IF NEW.thing_id = 'bad' THEN PERFORM pg_sleep(3); END IF; RETURN NEW;")
    ),
    "a server that takes too long for every row": Case(trigger("PERFORM pg_sleep(3); RETURN NEW;")),
}


def test_error_codes_of_the_surroundings_are_only_retried(bench: Bench, impatient: None) -> None:
    bench.look(RAISING)
    for code in SURROUNDINGS_CODES:
        assert bench.apply(slice_of([thing_set(0, "bad", 2, name=f"raise{code}")])) is None
        assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)], code
    assert bench.look("SELECT count(*) FROM sluice.dead_letters") == [(0,)]
    bench.look(MEND)
    assert bench.apply(slice_of(RECORDS)) is not None
    assert bench.amounts() == ALL


def assert_passes(bench: Bench, mend: str, message: Slice) -> None:
    """Asserts that there is no dead letter and no halt, and that all events are applied after `mend`."""
    dead = "SELECT count(*) FROM sluice.dead_letters WHERE outcome <> 'waiting' AND state <> 'done'"
    assert bench.look(dead) == [(0,)]
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]
    bench.look(mend)
    wait_until(
        lambda: bench.apply(message) and bench.amounts() == ALL,
        timeout_seconds=10,
        what="everything is applied",
    )
    assert bench.look(dead) == [(0,)]


@pytest.mark.parametrize("case", PASSES.values(), ids=PASSES)
def test_a_fault_of_the_surroundings_makes_no_letter_and_no_halt(
    bench: Bench, impatient: None, case: Case
) -> None:
    bench.look(case.disturb)
    for _ in range(3):
        bench.apply(slice_of(RECORDS))
    assert "bad" not in bench.amounts()
    assert_passes(bench, case.mend, slice_of(RECORDS))
    assert bench.outcomes() == {"applied": 3}


@pytest.mark.parametrize(
    "lock",
    [
        "SELECT FROM public.things WHERE thing_id = 'bad' FOR UPDATE",
        "LOCK TABLE public.things IN EXCLUSIVE MODE",
        "INSERT INTO public.things (thing_id, amount, name) VALUES ('other', 1, 'taken')",
    ],
    ids=["a row", "a table", "a unique key"],
)
def test_events_wait_for_a_lock_of_another_session(
    bench: Bench, impatient: None, database_url: str, lock: str
) -> None:
    bench.apply(slice_of([thing_set(0, "a", 1), thing_set(1, "bad", 1)]))
    later = slice_of([thing_set(2, "bad", 2, name="taken"), thing_set(3, "b", 3)], prev=1)
    holder = Session(database_url, application_name="holder")
    holder.command(f"BEGIN; {lock}")
    for _ in range(3):
        bench.apply(later)
    assert bench.amounts().get("bad") == 1
    holder.command("ROLLBACK")
    holder.close()
    assert_passes(bench, "SELECT 1", later)


def restricted(bench: Bench) -> None:
    """Changes the role of the worker's session to a role that may read and write, but owns no table."""
    [(name,)] = bench.look("SELECT 'restricted_' || current_database()")
    bench.look(f'CREATE ROLE "{name}"')
    for schema in ("public", bench.looking.schema):
        bench.look(f'GRANT USAGE ON SCHEMA {schema} TO "{name}"')
        bench.look(f'GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO "{name}"')
        bench.look(f'GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO "{name}"')
    bench.session.command(f'SET ROLE "{name}"')


def test_a_row_hidden_by_row_level_security_is_a_fault_of_its_event(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(0, "bad", 1)]))
    restricted(bench)
    bench.look("ALTER TABLE things ENABLE ROW LEVEL SECURITY")
    bench.look("CREATE POLICY found ON things FOR SELECT USING (true)")
    bench.look("CREATE POLICY added ON things FOR INSERT WITH CHECK (true)")
    bench.look("CREATE POLICY changed ON things FOR UPDATE USING (thing_id <> 'bad')")
    later = slice_of([thing_set(1, "a", 1), thing_set(2, "bad", 2)], prev=0)
    applied = bench.apply(later)
    assert applied is not None
    assert applied.outcomes == {"applied": 1, "dead": 1}
    [(text,)] = bench.look("SELECT error_text FROM sluice.dead_letters")
    assert "row-level security" in text


def test_a_missing_right_halts_the_queue(bench: Bench) -> None:
    restricted(bench)
    [(role,)] = bench.look("SELECT 'restricted_' || current_database()")
    bench.look(f'REVOKE UPDATE ON things FROM "{role}"')
    assert bench.apply(slice_of(RECORDS)) is None
    [(reason,)] = bench.look("SELECT halted_reason FROM sluice.queues")
    assert "permission denied for table things" in reason
    bench.look(f'GRANT UPDATE ON things TO "{role}"')
    assert bench.apply(slice_of(RECORDS)) is not None
    assert bench.amounts() == ALL


def test_a_suppressed_update_of_one_row_is_a_fault_of_its_event(bench: Bench) -> None:
    bench.apply(slice_of(RECORDS))
    bench.look(trigger(NULL_FOR_BAD, "UPDATE"))
    applied = bench.apply(slice_of([thing_set(3, "bad", 9), thing_set(4, "a", 9)], prev=2))
    assert applied is not None
    assert applied.outcomes == {"applied": 1, "dead": 1}
    assert bench.amounts() == {"a": 9, "bad": 2, "b": 3}


def test_a_suppressed_write_of_a_single_event_halts_the_queue(bench: Bench) -> None:
    bench.look(trigger(NULL_FOR_BAD))
    assert bench.apply(slice_of([thing_set(0, "bad", 1)])) is None
    [(reason,)] = bench.look("SELECT halted_reason FROM sluice.queues")
    assert "things: Postgres wrote 0 of 1 row" in reason
    assert "trigger" in reason
    # If another event of the batch writes the table successfully, the fault is the event's.
    assert bench.apply(slice_of([thing_set(0, "bad", 1), thing_set(1, "a", 1)])) is not None
    assert bench.outcomes() == {"applied": 1, "dead": 1}
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]
