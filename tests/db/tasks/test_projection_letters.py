"""An event that one projection cannot apply is a letter of this projection. All other handlers apply it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild import generation_changes
from sluice.db.admin.projection_letters import count_open
from sluice.db.admin.retention import purge_projection_letters
from sluice.db.records import Outcome
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Entity, Topic
from sluice.tasks.fold.registry import Registry
from tests.db.tasks import failing_projections, projecting
from tests.db.tasks.applying import TOPIC, slice_of, thing_set
from tests.db.tasks.failing_projections import BAD, Bench, raising, registry, shown, stream
from tests.db.tasks.projecting import DECISION

bench = failing_projections.bench
opened = projecting.opened

REFUSING = f"""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.amount = {BAD} THEN %s END IF; RETURN NEW; END $$;
    CREATE TRIGGER refusing BEFORE INSERT OR UPDATE ON totals_g1 FOR EACH ROW EXECUTE FUNCTION refuse()
"""
ALLOW = "DROP TRIGGER refusing ON totals_g1; DROP FUNCTION refuse"


@dataclass(frozen=True)
class Failure:
    """A cause for which the projection `totals` fails at the bad event, and the correction."""

    error_class: str
    break_: str = ""
    mend: str = ""
    code: Callable[[], Registry] = registry
    outcome: Outcome = Outcome.DEAD


FAILURES = {
    "the handler raises": Failure("ValueError", code=lambda: registry(raising)),
    "a version that exists already": Failure(
        "Conflict", code=lambda: registry(version=lambda _: 0), outcome=Outcome.CONFLICT
    ),
    "a constraint": Failure(
        "CheckViolation",
        f"ALTER TABLE totals_g1 ADD CONSTRAINT lucky CHECK (amount <> {BAD})",
        "ALTER TABLE totals_g1 DROP CONSTRAINT lucky",
    ),
    "a not-null constraint": Failure(
        "NotNullViolation",
        REFUSING % "NEW.amount = NULL;",
        ALLOW,
    ),
    "a trigger that raises": Failure("RaiseException", REFUSING % "RAISE EXCEPTION 'no';", ALLOW),
    "a write that is suppressed": Failure("WriteSuppressed", REFUSING % "RETURN NULL;", ALLOW),
    "a deferred constraint": Failure(
        "UniqueViolation",
        f"""
        INSERT INTO totals_g1 (thing_id, amount, seen) VALUES ('other', {BAD}, 0);
        ALTER TABLE totals_g1 ADD CONSTRAINT own UNIQUE (amount) DEFERRABLE INITIALLY DEFERRED
        """,
        "ALTER TABLE totals_g1 DROP CONSTRAINT own; DELETE FROM totals_g1 WHERE thing_id = 'other'",
    ),
}


BATCHES = {
    **{(name, "handler and projection", "one batch"): (thing_set, False) for name in FAILURES},
    **{(name, "projection only", "one batch"): (shown, False) for name in list(FAILURES)[:3]},
    **{
        (name, "handler and projection", "one event per batch"): (thing_set, True)
        for name in list(FAILURES)[:3]
    },
}


@pytest.mark.parametrize(
    ("failure", "kind", "apart"),
    [(FAILURES[of[0]], *how) for of, how in BATCHES.items()],
    ids=[", ".join(of) for of in BATCHES],
)
def test_a_projection_that_fails_undoes_only_its_own_writes(
    bench: Bench, opened: Any, failure: Failure, kind: Callable[..., Record], apart: bool
) -> None:
    code = opened(bench.with_code(failure.code()))
    bench.look(failure.break_ or "SELECT 1")
    records = stream(kind)
    for part in [[one] for one in records] if apart else [records[:3], records[3:]]:
        code.live(*part)
    # All events have the same version here, so the second event of `b` conflicts, too.
    is_conflict = failure.outcome is Outcome.CONFLICT
    assert code.letters() == [
        (2, "a", failure.outcome, "dead", failure.error_class),
        (3, "a", "waiting", "waiting", "Waiting"),
        *([(4, "b", "conflict", "dead", "Conflict")] if is_conflict else []),
    ]
    bench.look(failure.mend or "SELECT 1")
    assert code.rows() == {"a": (1, 1), "b": (4, 1) if is_conflict else (5, 2)}
    assert code.labelled() == {"a": (3, 3), "b": (5, 2)}
    assert code.outcomes() == {"applied": 5}
    assert code.amounts() == ({"a": 3, "b": 5} if kind is thing_set else {})
    assert code.look("SELECT count(*) FROM sluice.outbox_events") == [(5 if kind is thing_set else 0,)]
    assert code.look("SELECT DISTINCT outcome FROM sluice.processed_events") == [("applied",)]
    assert code.look("SELECT count(*) FROM sluice.dead_letters") == [(0,)]
    assert code.look("SELECT count(*) FROM sluice.parked_entities") == [(0,)]
    assert (code.halted(), code.states()) == ([], {1: "live"})

    mended = opened(bench.with_code(registry()))
    for key in ("a", "b"):
        assert mended.redrive_letters(key) is None
    assert mended.rows() == mended.labelled() == {"a": (3, 3), "b": (5, 2)}
    assert {state for *_, state, _ in mended.letters()} == {"done"}
    mended.live(kind(5, "a", 6))
    assert mended.rows()["a"] == (6, 4), "no event waits any more"


def test_a_letter_redriven_with_the_same_code_fails_again_and_later_events_wait(bench: Bench) -> None:
    bench.live(*stream())
    assert bench.redrive_letters("a") == "things:0:2 ValueError: thirteen"
    assert bench.look("SELECT attempts FROM sluice.projection_letters ORDER BY id") == [(2,), (1,)]
    assert bench.rows() == {"a": (1, 1), "b": (5, 2)}
    bench.live(thing_set(5, "a", 6), thing_set(6, "b", 7))
    assert [(offset, state) for offset, _, _, state, _ in bench.letters()] == [
        (2, "dead"),
        (3, "waiting"),
        (5, "waiting"),
    ]
    assert bench.rows() == {"a": (1, 1), "b": (7, 3)}


def test_a_dropped_letter_is_skipped_and_later_letters_are_applied(bench: Bench) -> None:
    bench.live(*stream())
    assert bench.drop_letter("a")
    assert bench.redrive_letters("a") is None
    assert bench.rows() == {"a": (3, 2), "b": (5, 2)}
    assert [(offset, state) for offset, _, _, state, _ in bench.letters()] == [(2, "dropped"), (3, "done")]
    assert bench.amounts() == {"a": 3, "b": 5}


def test_no_event_waits_behind_a_letter_of_a_topic_that_skips_failed_events(
    bench: Bench, opened: Any
) -> None:
    topic = Topic(TOPIC, entity=Entity("thing", 1), on_failure="skip")
    code = opened(bench.with_code(registry(raising, topic=topic)))
    code.live(*stream())
    assert code.letters() == [(2, "a", "dead", "dead", "ValueError")]
    assert code.rows() == {"a": (3, 2), "b": (5, 2)}


def test_a_failed_event_without_a_key_is_a_dead_letter_of_the_whole_event(bench: Bench) -> None:
    keyless = thing_set(0, "a", BAD)._replace(key=None)
    bench.live(keyless)
    # The handler of `things` writes a row with the record's key, which is missing here. So the handler fails,
    # too.
    assert bench.outcomes() == {"dead": 1}
    assert bench.letters() == []


@pytest.mark.parametrize("redriven", ["bad", "good"])
def test_a_redriven_dead_letter_runs_its_projections_as_well(
    bench: Bench, opened: Any, redriven: str
) -> None:
    bench.look("ALTER TABLE things ADD CONSTRAINT never CHECK (amount < 0 OR thing_id <> 'a')")
    bench.live(thing_set(0, "a", BAD if redriven == "bad" else 2), thing_set(1, "a", 3))
    assert (bench.outcomes(), bench.letters()) == ({"dead": 1, "waiting": 1}, [])
    bench.look("ALTER TABLE things DROP CONSTRAINT never")
    bench.redrive("a")
    assert bench.amounts() == {"a": 3}
    if redriven == "good":
        assert (bench.rows(), bench.letters()) == ({"a": (3, 2)}, [])
    else:
        assert (bench.rows(), bench.labelled()) == ({}, {"a": (3, 2)})
        assert [(offset, outcome) for offset, _, outcome, *_ in bench.letters()] == [
            (0, "dead"),
            (1, "waiting"),
        ]


def test_a_repeated_batch_stores_a_letter_only_once(bench: Bench) -> None:
    for _ in range(2):
        bench.apply(slice_of(stream()))
    assert len(bench.letters()) == 2


@pytest.mark.parametrize("dropped", ["before the rebuild", "during the rebuild"])
def test_a_rebuild_folds_failed_events_and_skips_dropped_events(
    bench: Bench, opened: Any, dropped: str
) -> None:
    bench.live(*stream(), thing_set(5, "d", BAD), thing_set(6, "d", 7))
    mended = opened(bench.with_code(registry(revision=2)))

    def drop() -> None:
        assert bench.drop_letter("a")
        assert bench.redrive_letters("a") is None

    if dropped == "before the rebuild":
        drop()
    number = mended.begin()
    if dropped == "during the rebuild":
        drop()
    assert mended.rebuild(number)
    assert mended.rows(number) == {"a": (3, 2), "b": (5, 2), "d": (7, 2)}
    assert [(offset, state) for offset, _, _, state, _ in mended.letters(number)] == [(2, "dropped")]

    assert [(one.failed, one.waiting) for one in count_open(bench.looking)] == [(1, 1)]
    mended.swap(number)
    assert count_open(bench.looking) == [], "letters of a retired generation do not count"
    mended.live(thing_set(7, "d", 8))
    assert mended.rows()["d"] == (8, 3)
    mended.swap(1)
    assert [(one.failed, one.waiting) for one in count_open(bench.looking)] == [(1, 2)]
    assert mended.redrive_letters("d") is None
    assert mended.rows() == {"a": (3, 2), "b": (5, 2), "d": (8, 3)}
    again = mended.begin()
    assert mended.rebuild(again)
    assert mended.rows(again) == mended.rows(), "dropped events stay dropped"


def test_a_dropped_event_is_skipped_even_if_only_its_repeat_is_left(bench: Bench, opened: Any) -> None:
    bench.live(*stream())
    assert bench.drop_letter("a")
    assert bench.redrive_letters("a") is None
    bench.live(stream()[2]._replace(offset=5))
    del bench.log[2]  # Compaction does this.
    mended = opened(bench.with_code(registry(revision=2)))
    number = mended.begin()
    assert mended.rebuild(number)
    assert mended.rows(number) == {"a": (3, 2), "b": (5, 2)}


def test_a_drop_of_a_generation_deletes_its_letters(bench: Bench) -> None:
    number = bench.begin()
    bench.live(*stream())
    assert bench.rebuild(number)
    assert len(bench.letters(number)) == len(bench.letters(1)) == 2
    generation_changes.drop(bench.session, bench.generation(number), DECISION)
    assert (bench.letters(number), len(bench.letters(1))) == ([], 2)


def test_a_checkpoint_is_refused_while_the_generation_lacks_events(bench: Bench) -> None:
    bench.live(*stream())
    with pytest.raises(OperationRefused, match="lacks 2 events, each failed or behind a failed one"):
        bench.checkpoint("monday")
    assert bench.drop_letter("a")
    assert bench.redrive_letters("a") is None
    bench.checkpoint("monday")


def test_a_purge_deletes_old_applied_letters_and_keeps_dropped_letters(bench: Bench, opened: Any) -> None:
    bench.live(*stream())
    assert bench.drop_letter("a")
    assert opened(bench.with_code(registry())).redrive_letters("a") is None
    assert purge_projection_letters(bench.session, 60, 10) == 0
    bench.look("UPDATE sluice.projection_letters SET settled_at = now() - interval '1 h'")
    assert purge_projection_letters(bench.session, 60, 10) == 1
    assert [state for *_, state, _ in bench.letters()] == ["dropped"]
