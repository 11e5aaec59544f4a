"""A fault in a generation affects only this generation. A handler writes only the table of its projection."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild import generation_changes
from sluice.tasks.api import Call, Effect, Emit, Event, Upsert, handles, projects
from tests.db.tasks import projecting
from tests.db.tasks.applying import Thing, thing_set, things
from tests.db.tasks.projecting import Bench, registry, totals

DEATHS = 'SELECT "offset", generation, error_class FROM sluice.projection_letters ORDER BY id'
TEXTS = "SELECT error_class, error_text FROM sluice.projection_letters ORDER BY id"
LEAVING = """
SELECT count(*) FROM sluice.outbox_events UNION ALL SELECT count(*) FROM sluice.executed_side_effects
"""


bench = projecting.bench
opened = projecting.opened


def test_an_event_that_postgres_refuses_is_a_letter_of_the_generation(bench: Bench, opened: Any) -> None:
    fixed = opened(bench.with_code(registry(2, 1_000)))
    bench.live(thing_set(0, "a", 1))
    number = fixed.begin()
    assert fixed.rebuild(number)
    # The new code stores 1,000 times this amount. The check of the table refuses so large an amount.
    assert bench.live(thing_set(1, "a", 5_000), thing_set(2, "a", 6), thing_set(3, "b", 7)) is not None
    assert fixed.rebuild(number)
    assert bench.states()[number] == "ready"
    assert bench.look(DEATHS) == [(1, number, "CheckViolation"), (2, number, "Waiting")]
    assert bench.rows(number) == {"a": (1_000, 1), "b": (7_000, 1)}
    assert bench.rows() == {"a": (6, 3), "b": (7, 1)}
    with pytest.raises(OperationRefused, match="2 events of the live generation failed in this"):
        generation_changes.plan_swap(fixed.session, fixed.registry, "totals", number, back=False)


def test_a_missing_table_fails_only_its_generation(bench: Bench, opened: Any) -> None:
    fixed = opened(bench.with_code(registry(2)))
    bench.live(thing_set(0, "a", 1))
    number = fixed.begin()
    assert fixed.rebuild(number)
    bench.look(f"ALTER TABLE totals_g{number} RENAME TO elsewhere")
    fixed.live(thing_set(1, "a", 5))
    assert bench.states()[number] == "failed"
    assert "totals_g2" in bench.generation(number).failed_reason
    assert bench.rows() == {"a": (5, 2)}
    assert bench.outcomes() == {"applied": 2}


def test_a_retired_generation_that_is_kept_in_sync_has_its_own_letters(bench: Bench, opened: Any) -> None:
    fixed = opened(bench.with_code(registry(2, 10)))
    bench.live(thing_set(0, "a", 1))
    number = fixed.begin()
    assert fixed.rebuild(number)
    fixed.swap(number)
    bench.look("ALTER TABLE totals_g1 ADD CHECK (amount < 100)")
    fixed.live(thing_set(1, "a", 50))
    fixed.live(thing_set(2, "a", 5), thing_set(3, "b", 5))
    assert bench.rows() == {"a": (50, 3), "b": (50, 1)}
    assert bench.rows(1) == {"a": (1, 1), "b": (50, 1)}
    assert bench.states() == {1: "retired", number: "live"}
    assert bench.look(DEATHS) == [(1, 1, "CheckViolation"), (2, 1, "Waiting")]
    assert bench.outcomes() == {"applied": 4}


def test_an_event_that_fails_only_in_the_new_generation_is_a_letter(bench: Bench, opened: Any) -> None:
    @projects("thing.set", into=totals, revision=2)
    def fussy(event: Event[Thing]) -> Iterator[Upsert]:
        if event.data.amount == 2:
            raise ValueError("two")
        yield Upsert(totals, event.key, {"amount": event.data.amount})

    fixed = opened(bench.with_code(registry(2, project=fussy)))
    bench.live(thing_set(0, "a", 1), thing_set(1, "b", 2), thing_set(2, "c", 3))
    number = fixed.begin()
    assert fixed.rebuild(number)
    assert set(bench.rows(number)) == {"a", "c"}
    assert bench.look(
        'SELECT "offset", entity_key, error_class, error_text, state FROM sluice.projection_letters'
    ) == [(1, "b", "ValueError", "two", "dead")]


@pytest.mark.parametrize("effect", [Emit("out", "k", "t", {}), Call("notify")], ids=["emit", "call"])
def test_an_emit_or_a_call_of_a_projection_is_refused_and_not_sent(
    bench: Bench, opened: Any, effect: Any
) -> None:
    @projects("thing.set", into=totals, revision=2)
    def talkative(event: Event[Thing]) -> Iterator[Any]:
        yield Upsert(totals, event.key, {"amount": event.data.amount})
        yield effect

    bench.live(thing_set(0, "a", 1))
    before = bench.look(LEAVING)
    fixed = opened(bench.with_code(registry(2, project=talkative)))
    number = fixed.begin()
    assert fixed.rebuild(number)
    [(error_class, text)] = bench.look(TEXTS)
    assert error_class == "EffectRefused"
    assert f"{type(effect).__name__} by a handler that projects into totals" in text
    fixed.live(thing_set(1, "b", 2))
    letters = bench.look(TEXTS)
    assert [error_class for error_class, _ in letters] == ["EffectRefused"] * 3
    assert all("a rebuild would repeat it" in text for _, text in letters)
    sent_by_the_handler_alone = [(before[0][0] + 1,), (before[1][0] + 1,)]
    assert bench.look(LEAVING) == sent_by_the_handler_alone


def test_a_projection_that_writes_another_table_makes_letters(bench: Bench, opened: Any) -> None:
    @projects("thing.set", into=totals, revision=2)
    def stray(event: Event[Thing]) -> Iterator[Any]:
        yield Upsert(things, event.key, {"amount": 1, "name": None})

    opened(bench.with_code(registry(2, project=stray))).live(thing_set(0, "a", 1))
    [(_, text)] = bench.look(TEXTS)
    assert "Upsert of things by a handler that projects into totals" in text
    assert bench.amounts() == {"a": 1}, "the event's other handlers have written their rows"
    assert bench.outcomes() == {"applied": 1}


def _only_letter(bench: Bench) -> str:
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]
    [(text,)] = bench.look("SELECT error_text FROM sluice.dead_letters WHERE outcome = 'dead'")
    return str(text)


def test_a_handler_that_writes_a_projection_makes_letters(bench: Bench) -> None:
    @handles("thing.set")
    def meddle(event: Event[Thing]) -> Iterator[Effect]:
        yield Upsert(totals, event.key, {"amount": 1})

    [entry] = bench.registry.handlers["thing.set"]
    bench.registry.handlers["thing.set"] = (replace(entry, function=meddle),)
    bench.live(thing_set(0, "a", 1))
    assert "Upsert of projection totals: only handlers declared with @projects" in _only_letter(bench)


@pytest.mark.parametrize("effect", [Emit("out", "k", "t", {}), Call("notify")], ids=["emit", "call"])
def test_without_the_check_at_yield_a_rebuild_refuses_the_effect(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch, effect: Any
) -> None:
    monkeypatch.setattr("sluice.tasks.fold.checked_effects._refuse_in_projection", lambda *_: None)

    @projects("thing.set", into=totals, revision=2)
    def talkative(event: Event[Thing]) -> Iterator[Any]:
        yield effect

    bench.live(thing_set(0, "a", 1))
    before = bench.look(LEAVING)
    fixed = opened(bench.with_code(registry(2, project=talkative)))
    number = fixed.begin()
    assert not fixed.rebuild(number)
    assert "in a rebuild, which must not repeat this effect" in bench.generation(number).failed_reason
    assert bench.look(LEAVING) == before
    assert fixed.live(thing_set(1, "a", 2)) is not None
    sent_by_the_handler_alone = [(before[0][0] + 1,), (before[1][0] + 1,)]
    assert bench.look(LEAVING) != sent_by_the_handler_alone, "the mutant sends nothing"
