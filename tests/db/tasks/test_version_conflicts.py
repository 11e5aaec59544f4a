"""Version conflicts in handlers count like dead letters, and can be redriven with corrected code."""

from collections.abc import Iterator
from types import ModuleType

import pytest

from sluice.tasks.api import Effect, Entity, Event, Topic, Upsert, handles
from sluice.tasks.fold.registry import Registry, collect_modules
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying
from tests.db.tasks.applying import TOPIC, Bench, Thing, nothing_in_kafka, slice_of, thing_set, things

KEYS = ("a", "b", "c", "d")


def registry(version: int | None) -> Registry:
    """Returns the application. Each row has `version`, or, without `version`, the version of its event."""

    @handles("thing.set")
    def set_versioned(event: Event[Thing]) -> Iterator[Effect]:
        at = event.version if version is None else version
        assert isinstance(at, int)
        yield Upsert(things, event.key, {"amount": event.data.amount, "name": None}, at)

    module = ModuleType("conflicting")
    vars(module).update(set_versioned=set_versioned, topics=(Topic(TOPIC, entity=Entity("thing", 1)),))
    return collect_modules([module])


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    applying.create_tables(database_url)
    made = Bench(database_url, registry(1))
    yield made
    made.close()


def conflicts(bench: Bench) -> list[tuple[int, str, str]]:
    return bench.look('SELECT "offset", outcome, state FROM sluice.dead_letters ORDER BY id')


def test_many_version_conflicts_halt_the_queue(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(n, KEYS[n % 4], n) for n in range(40)]))
    [(reason,)] = bench.look("SELECT halted_reason FROM sluice.queues")
    assert "36 of the last 40 events failed or conflicted, most recently by Conflict" in reason
    assert (bench.amounts(), conflicts(bench)) == ({}, []), "the batch is rolled back"


def test_an_id_that_a_producer_uses_twice_halts_no_queue(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(n, "a", n, event_id="e") for n in range(40)]))
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]
    assert bench.outcomes() == {"applied": 1, "conflict": 39}


def test_version_conflicts_are_redriven_with_the_corrected_code(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(n, KEYS[n % 2], n) for n in range(6)]))
    assert bench.outcomes() == {"applied": 2, "conflict": 4}
    letters = [number for (number,) in bench.look("SELECT id FROM sluice.dead_letters ORDER BY id")]
    same = Redriver(bench.session, bench.registry, nothing_in_kafka)
    assert same.redrive_letter("thing", letters[0], "a").outcomes == {"conflict": 1}
    mended = Redriver(bench.session, registry(None), nothing_in_kafka)
    done = [mended.redrive_letter("thing", number, KEYS[n % 2]).outcomes for n, number in enumerate(letters)]
    assert done == [{"applied": 1}] * 4
    assert bench.amounts() == {"a": 4, "b": 5}
    assert {state for *_, state in conflicts(bench)} == {"done"}
    assert bench.outcomes() == {"applied": 6}
    assert bench.look("SELECT DISTINCT outcome FROM sluice.processed_events") == [("applied",)]
