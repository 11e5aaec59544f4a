"""Events without an id become dead letters, or are deduplicated by position if the topic declares so."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.trace import find_place
from sluice.admin.trace import trace as trace_record
from sluice.db.admin.doctor_facts import EventsWithoutId, read_events_without_id
from sluice.db.connection import BATCH_PLANS, Session
from sluice.kafka_io.record_types import Record
from sluice.tasks.apply.apply import Applier
from sluice.tasks.fold.registry import Registry
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying, projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, Bench, made, nothing_in_kafka, slice_of, thing_set
from tests.db.tasks.projecting import registry as projecting_registry

bench, opened = applying.bench, projecting.opened


def without_id(offset: int, key: str = "k", amount: int = 1) -> Record:
    record = thing_set(offset, key, amount)
    value = json.loads(record.value or b"")
    del value["event_id"]
    return record._replace(value=json.dumps(value).encode())


def tombstone(offset: int, key: str = "gone") -> Record:
    return Record(offset, 1_700_000_000_000, key.encode(), None, [])


def by_position(code: Registry) -> Registry:
    code.topics[TOPIC] = replace(code.topics[TOPIC], dedup="position")
    return code


def restart_by_position(bench: Bench) -> Redriver:
    """Starts the worker with changed code. Returns a redriver with this code."""
    bench.applier = Applier(bench.session, by_position(bench.registry))
    return Redriver(bench.session, bench.registry, nothing_in_kafka)


def counted(bench: applying.Bench) -> int:
    [(found,)] = bench.look("SELECT sum(without_id)::int FROM sluice.lane_offsets")
    return int(found)


def letters(bench: applying.Bench) -> list[tuple[object, ...]]:
    return bench.look('SELECT "offset", outcome, error_class FROM sluice.dead_letters ORDER BY id')


@pytest.fixture
def redriver(bench: Bench, database_url: str) -> Iterator[Redriver]:
    session = Session(database_url, application_name="test redrive", plans=BATCH_PLANS)
    yield Redriver(session, bench.registry, nothing_in_kafka)
    session.close()


def test_an_event_without_id_is_a_dead_letter_and_its_entity_waits(bench: Bench) -> None:
    records = [without_id(0, "a"), thing_set(1, "a", 2), thing_set(2, "b", 3), without_id(3, "a", 4)]
    applied = bench.apply(slice_of(records))
    assert applied is not None
    assert applied.without_id == {TOPIC: 2}
    assert bench.outcomes() == {"applied": 1, "dead": 1, "waiting": 2}
    assert letters(bench)[0] == (0, "dead", "EventIdMissing")
    assert (bench.amounts(), counted(bench)) == ({"b": 3}, 2)
    # Repeated records change nothing and are not counted again.
    bench.apply(slice_of(records))
    assert counted(bench) == 2
    assert read_events_without_id(bench.looking) == [EventsWithoutId(TOPIC, 2, 1)]


def test_with_dedup_by_position_every_record_counts(bench: Bench) -> None:
    by_position(bench.registry)
    again = thing_set(3, "b", 5, event_id="e2")
    applied = bench.apply(
        slice_of([without_id(0, "a", 1), without_id(1, "a", 2), thing_set(2, "b", 4, event_id="e2"), again])
    )
    assert applied is not None
    assert applied.without_id == {TOPIC: 2}
    assert (bench.outcomes(), letters(bench)) == ({"applied": 4}, [])
    assert (bench.amounts(), counted(bench)) == ({"a": 2, "b": 5}, 2)
    assert bench.look("SELECT count(*) FROM sluice.outbox_events") == [(4,)]
    assert bench.look("SELECT event_id FROM sluice.processed_events WHERE event_id IS NOT NULL") == [
        ("e2",),
        ("e2",),
    ]
    assert read_events_without_id(bench.looking) == [EventsWithoutId(TOPIC, 2, 0)]


def test_a_null_value_is_not_counted_as_an_event_without_id(bench: Bench) -> None:
    bench.registry.topics[TOPIC] = replace(bench.registry.topics[TOPIC], ignores=("thing.deleted",))
    bench.apply(slice_of([tombstone(0), tombstone(1)]))
    assert (bench.outcomes(), counted(bench)) == ({"ignored": 2}, 0)
    assert read_events_without_id(bench.looking) == []


def test_letters_without_id_are_applied_with_dedup_by_position(bench: Bench, redriver: Redriver) -> None:
    records = [without_id(0, "a", 1), thing_set(1, "a", 2), without_id(2, "a", 3)]
    bench.apply(slice_of(records))
    assert redriver.redrive_once("thing", "a").blocked_by is not None
    assert restart_by_position(bench).redrive_once("thing", "a").unparked
    assert (bench.amounts(), bench.outcomes()) == ({"a": 3}, {"applied": 3})
    assert bench.look("SELECT state FROM sluice.dead_letters GROUP BY state") == [("done",)]
    assert read_events_without_id(bench.looking) == [EventsWithoutId(TOPIC, 2, 0)]
    # The same records are read again, as after an accept. The position of each record is known.
    bench.looking.command("DELETE FROM sluice.lane_offsets")
    bench.apply(slice_of(records))
    assert (bench.amounts(), bench.outcomes()) == ({"a": 3}, {})


def test_a_letter_with_id_is_applied_only_once_with_dedup_by_position(bench: Bench) -> None:
    broken = made(0, "thing.broken", "a", event_id="x", amount=1)
    bench.apply(slice_of([broken, thing_set(1, "a", 2)]))
    redriver = restart_by_position(bench)
    bench.registry.handlers["thing.broken"] = bench.registry.handlers["thing.set"]
    assert redriver.redrive_once("thing", "a").unparked
    assert (bench.amounts(), bench.outcomes()) == ({"a": 2}, {"applied": 2})
    assert redriver.redrive_once("thing", "a").outcomes == {}
    # Each event is known by its id and by its position. With dedup by position, only the position counts.
    known = 'SELECT "offset", outcome FROM sluice.processed_events ORDER BY "offset"'
    assert bench.look(known) == [(0, "applied"), (0, "applied"), (1, "applied"), (1, "applied")]
    bench.apply(slice_of([made(2, "thing.set", "a", event_id="x", amount=3)], 1))
    assert bench.amounts() == {"a": 3}


def test_a_trace_finds_events_that_were_applied_before_a_change_of_dedup(bench: Bench) -> None:
    records = [thing_set(0, "a", 1, event_id="x"), thing_set(1, "a", 1, event_id="x", version=0)]
    bench.apply(slice_of(records))

    def trace(record: Record) -> tuple[str | None, str | None]:
        topic = bench.registry.topics[TOPIC]
        found = trace_record(bench.looking, bench.registry, topic, TOPIC_ID, 0, record)
        return found.outcome, found.repeats

    traced = [("applied", None), ("applied", f"{TOPIC}:0:0")]
    assert [trace(record) for record in records] == traced
    key, event_id, source = "a", "x", None
    assert find_place(bench.looking, bench.registry, TOPIC, key, event_id, source).offset == 0
    restart_by_position(bench)
    assert [trace(record) for record in records] == traced
    assert find_place(bench.looking, bench.registry, TOPIC, key, event_id, source).offset == 0
    later = thing_set(2, "a", 2, event_id="y")
    bench.apply(slice_of([later], 1))
    assert trace(later) == ("applied", None)
    with pytest.raises(OperationRefused, match="pass the record as TOPIC:PARTITION:OFFSET"):
        find_place(bench.looking, bench.registry, TOPIC, key, "y", source)


@pytest.fixture
def projected(database_url: str) -> Iterator[projecting.Bench]:
    projecting.create(database_url)
    made = projecting.Bench(database_url, by_position(projecting_registry(1)))
    yield made
    made.close()


def test_a_rebuild_recognises_events_from_before_a_change_of_dedup(
    projected: projecting.Bench, opened: Callable[[projecting.Bench], projecting.Bench]
) -> None:
    # Dedup by position: two events with the same id, and one event without an id.
    first = [thing_set(0, "a", 1, event_id="x"), thing_set(1, "a", 2, event_id="x"), without_id(2, "b", 3)]
    projected.live(*first)
    # Dedup by id: the first event with this id is new, the second event is a duplicate.
    by_id = opened(projected.with_code(projecting_registry(1)))
    by_id.live(thing_set(3, "a", 4, event_id="x"), thing_set(4, "a", 4, event_id="x", version=3))
    assert by_id.outcomes() == {"applied": 4, "duplicate": 1}
    # Again dedup by position.
    again = opened(projected.with_code(by_position(projecting_registry(1))))
    again.live(thing_set(5, "a", 6, event_id="x"))
    live = again.rows()
    assert live == {"a": (6, 4), "b": (3, 1)}
    for code in (projecting_registry(2), by_position(projecting_registry(2))):
        rebuilding = opened(projected.with_code(code))
        generation = rebuilding.begin()
        assert rebuilding.rebuild(generation)
        assert rebuilding.rows(generation) == live
