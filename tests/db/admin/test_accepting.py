"""Accepting a topic on a real Postgres. Only this topic restarts. All its queues are locked meanwhile."""

import json
from typing import Any

import pytest

from sluice.admin import accept as accept_module
from sluice.admin.accept import accept_partitions, accept_topic, judge_acceptance
from sluice.admin.decisions import OperationRefused
from sluice.db.admin.rerouting import TopicRouting, read_topic_routing
from sluice.db.connection import Session
from sluice.kafka_io.log_range import LogRange
from tests.db.admin import rerouting
from tests.db.admin.rerouting import DECISION, OTHER, during_batch, lanes
from tests.db.tasks.applying import TOPIC, TOPIC_ID, Bench, made, slice_of, thing_set

LOGS = {0: LogRange(0, 100)}

bench = rerouting.bench


def accept(session: Session, topic_id: str = TOPIC_ID, logs: dict[int, LogRange] = LOGS) -> int:
    before = read_topic_routing(session, TOPIC)
    assert before is not None
    return accept_topic(session, TOPIC, before, TopicRouting(topic_id, "thing"), logs, DECISION)[1]


def partitions(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.look(
        "SELECT topic, partition, epoch, watermark FROM sluice.partition_watermarks ORDER BY 1, 2"
    )


def test_accepting_restarts_the_topic_and_no_other_topic(bench: Bench, session: Session) -> None:
    bench.apply(slice_of([thing_set(0), thing_set(1)]))
    assert accept(session, "id-new", {0: LogRange(20, 100), 1: LogRange(0, 0)}) == 2
    assert partitions(bench) == [
        ("aliens", 0, 1, 5),
        (OTHER, 0, 2, 4),
        (TOPIC, 0, 2, 20),
        (TOPIC, 1, 2, 0),
    ]
    assert read_topic_routing(session, TOPIC) == ("id-new", "thing")
    assert bench.look("SELECT entity, epoch, shards FROM sluice.entities ORDER BY 1") == [
        ("alien", 1, 1),
        ("thing", 2, 1),
    ]
    assert lanes(bench, 1) == [(OTHER, 0, "thing.0", 3, 4), (TOPIC, 0, "thing.0", 1, 2)], "counters are kept"
    assert lanes(bench, 2) == [(OTHER, 0, "thing.0", 3, 0)], "the other topic continues at its offset"
    ((verb, subject, reason, details),) = bench.look(
        "SELECT verb, subject, reason, details FROM sluice.audit"
    )
    assert (verb, subject, reason) == ("accept", TOPIC, "why")
    assert (details["topic_id_before"], details["topic_id"], details["epoch"]) == (TOPIC_ID, "id-new", 2)


def test_accepting_clears_the_stopped_problem_of_the_topic(bench: Bench, session: Session) -> None:
    bench.look(f"""
        INSERT INTO sluice.partition_reads (topic, partition, problem, detail, problem_since) VALUES
            ('{TOPIC}', 0, 'stopped', 'lost', now()), ('{TOPIC}', 1, 'no_leader', 'none', now()),
            ('{OTHER}', 0, 'stopped', 'lost', now())""")
    accept(session)
    left = "SELECT topic, partition, problem, detail FROM sluice.partition_reads WHERE problem IS NOT NULL"
    assert set(bench.look(left)) == {(TOPIC, 1, "no_leader", "none"), (OTHER, 0, "stopped", "lost")}


def test_a_slice_of_the_old_epoch_changes_nothing(bench: Bench, session: Session) -> None:
    bench.apply(slice_of([thing_set(0, amount=1)]))
    accept(session, "id-new")
    late = bench.apply(slice_of([thing_set(1, amount=2)], prev=0))
    assert late is not None
    assert dict(late.judgements) == {"rerouted": 1}
    assert bench.amounts() == {"k": 1}
    fresh = slice_of([thing_set(0, amount=3, event_id="f", version=9)], epoch=2)
    bench.apply(fresh._replace(topic_id="id-new"))
    assert bench.amounts() == {"k": 3}


def test_reading_every_outcome_again_changes_only_the_counts_of_repeats(
    bench: Bench, session: Session
) -> None:
    records = [
        thing_set(0, amount=1, version=5),
        thing_set(1, amount=1, version=5, event_id="e0"),
        thing_set(2, amount=1, version=3),
        thing_set(3, amount=8, version=5, event_id="e0"),
        thing_set(4, amount=8, version=5),
        made(5, "thing.broken", "bad"),
        thing_set(6, "bad"),
        made(7, "thing.viewed"),
    ]
    bench.apply(slice_of(records))
    outcomes = {
        "applied": 5,
        "duplicate": 1,
        "stale": 1,
        "conflict": 2,
        "waiting": 1,
        "dead": 1,
        "ignored": 1,
    }
    assert bench.outcomes() == outcomes | {"applied": 1}
    before = everything(bench)
    accept(session)
    bench.apply(slice_of(records, epoch=2))
    assert everything(bench) == before
    # The database has no row for a repeat, so the worker counts each new reading of the repeat.
    counted = bench.look(f"SELECT * FROM sluice.lane_offsets WHERE epoch = 2 AND topic = '{TOPIC}'")
    assert counted == [(TOPIC, 0, "thing.0", 2, 7, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0)]


def claim_another_topic_continues(bench: Bench, session: Session) -> None:
    """Asserts that accepting one topic does not apply the events of another topic again."""
    bench.apply(slice_of([thing_set(0), thing_set(1, event_id="e0", version=0)]))
    before = bench.outcomes()
    old = read_topic_routing(session, OTHER)
    assert old is not None
    accept_topic(session, OTHER, old, old, LOGS, DECISION)
    judged = bench.apply(slice_of([thing_set(0), thing_set(1, event_id="e0", version=0)], epoch=2))
    assert judged is not None
    assert not judged.outcomes
    assert bench.outcomes() == before


def test_another_topic_of_the_entity_type_continues_at_its_offset(bench: Bench, session: Session) -> None:
    claim_another_topic_continues(bench, session)


def test_a_mutant_that_carries_no_lanes_over_is_caught(
    bench: Bench, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept_module, "carry_lanes", lambda *_, **__: 0)
    with pytest.raises(AssertionError):
        claim_another_topic_continues(bench, session)


def test_accepting_waits_for_the_batch_in_flight(bench: Bench, session: Session, database_url: str) -> None:
    work = f"UPDATE sluice.lane_offsets SET applied_offset = 50 WHERE topic = '{OTHER}'"
    with during_batch(bench, database_url, work, lambda: accept(session)):
        assert lanes(bench, 2) == [(OTHER, 0, "thing.0", 50, 0)]


def test_the_second_of_two_accepts_is_refused(bench: Bench, session: Session) -> None:
    before = read_topic_routing(session, TOPIC)
    assert before is not None
    accept(session, "id-new")
    with pytest.raises(OperationRefused, match="was changed meanwhile"):
        accept_topic(session, TOPIC, before, TopicRouting("id-newer", "thing"), LOGS, DECISION)
    assert bench.look("SELECT epoch FROM sluice.entities WHERE entity = 'thing'") == [(2,)]


def everything(bench: Bench) -> list[list[tuple[Any, ...]]]:
    """Returns all rows that a batch may write, except the rows of its progress."""
    names = ("dead_letters", "processed_events", "outbox_events", "executed_side_effects", "parked_entities")
    tables = ["public.things", *(f"sluice.{name}" for name in names)]
    return [bench.look(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]


def test_accepting_lowers_the_log_ends_of_erasures(bench: Bench, session: Session) -> None:
    ends = {TOPIC_ID: {"0": 1_000, "7": 0}, "other": {"0": 1_000}}
    bench.look(
        "INSERT INTO sluice.erasures (entity, key_hash, log_ends)"
        f" VALUES ('thing', gen_random_uuid(), '{json.dumps(ends)}')"
    )
    accept(session)
    end = LOGS[0].end
    assert bench.look("SELECT log_ends FROM sluice.erasures") == [({**ends, TOPIC_ID: {"0": end, "7": 0}},)]


def test_accepting_added_partitions_registers_them_and_changes_nothing_else(
    bench: Bench, session: Session
) -> None:
    bench.apply(slice_of([thing_set(0), thing_set(1)]))
    before = read_topic_routing(session, TOPIC)
    assert before is not None
    others, former = partitions(bench), lanes(bench, 1)
    found = judge_acceptance(
        TOPIC,
        "thing",
        topic_ids=(TOPIC_ID, TOPIC_ID),
        watermarks={0: 0},
        logs={0: LogRange(0, 100), 2: LogRange(0, 7)},
        adds_only=True,
    )
    for _ in range(2):
        accept_partitions(session, TOPIC, before, found, DECISION)
    assert partitions(bench) == sorted([*others, (TOPIC, 2, 1, 0)])
    assert lanes(bench, 1) == former
    moved = TopicRouting("id-new", "thing")
    with pytest.raises(OperationRefused, match="was changed meanwhile"):
        accept_partitions(session, TOPIC, moved, found, DECISION)
