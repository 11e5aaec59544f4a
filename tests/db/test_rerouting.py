"""Accepting and resharding on a real Postgres: one transaction under all queue locks, nothing forgotten."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from bridge.assignment import LogRange, Start, judge_assignment
from bridge.assignment import LogRange as Log
from db import rerouting
from db.audit import Decision
from db.progress import read_assignments
from db.rerouting import TopicRouting, Unsettled, read_topic_routing
from db.session import Session
from ops.decisions import NotDone
from ops.rerouting import changes
from ops.rerouting.changes import accept_topic, reshard_entity
from ops.rerouting.shards import Resharded
from tasks.routing import queue_name, shard_of
from tests.db.applying import TOPIC, TOPIC_ID, Bench, create_tables, made, registry, slice_of, thing_set
from tests.mutants import mutated
from tests.waiting import wait_until

WHO = Decision("somebody", "accept", "why")
OTHER = "other-things"
LOGS = {0: LogRange(0, 100)}


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    """Topic `things` and another one of the entity type, and a topic of another entity type."""
    create_tables(database_url)
    topics = {TOPIC: replace(registry().topics[TOPIC], ignores=("thing.viewed",))}
    bench = Bench(database_url, replace(registry(), topics=topics))
    bench.look(f"""
        INSERT INTO sluice.entities (entity, shards) VALUES ('alien', 1);
        INSERT INTO sluice.queues (queue, entity) VALUES ('alien.0', 'alien');
        INSERT INTO sluice.topics VALUES ('{OTHER}', 'id-2', 'thing'), ('aliens', 'id-3', 'alien');
        INSERT INTO sluice.partition_progress (topic, partition, epoch, watermark) VALUES
            ('{TOPIC}', 0, 1, 0), ('{TOPIC}', 7, 1, 3), ('{OTHER}', 0, 1, 4), ('aliens', 0, 1, 5);
        INSERT INTO sluice.lane_progress (topic, partition, queue, epoch, applied_offset, applied)
        VALUES ('{OTHER}', 0, 'thing.0', 1, 3, 4)""")
    yield bench
    bench.close()


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    opened = Session(database_url, application_name="test reroute")
    yield opened
    opened.close()


def accept(session: Session, topic_id: str = TOPIC_ID, logs: dict[int, LogRange] = LOGS) -> int:
    before = read_topic_routing(session, TOPIC)
    assert before is not None
    return accept_topic(session, TOPIC, before, TopicRouting(topic_id, "thing"), logs, WHO)[1]


def reshard(session: Session, shards: int, *, force: bool = False) -> Resharded | Unsettled:
    return reshard_entity(session, "thing", shards, WHO, force=force)


def partitions(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.look(
        "SELECT topic, partition, epoch, watermark FROM sluice.partition_progress ORDER BY 1, 2"
    )


def lanes(bench: Bench, epoch: int) -> list[tuple[Any, ...]]:
    return bench.look(
        "SELECT topic, partition, queue, applied_offset, applied FROM sluice.lane_progress"
        f" WHERE epoch = {epoch} ORDER BY 1, 2, 3"
    )


def settle_all(bench: Bench) -> None:
    """As a bridge that read nothing more leaves it."""
    bench.look("UPDATE sluice.partition_progress SET watermark = 50; DELETE FROM sluice.outbox_events")


@contextmanager
def in_hand(bench: Bench, database_url: str, work: str, action: Callable[[], object]) -> Iterator[None]:
    """`action` is begun while a batch has the queue in hand, which then does `work` and commits."""
    holder = Session(database_url, application_name="a batch")
    holder.command("BEGIN; SELECT FROM sluice.queues WHERE queue = 'thing.0' FOR UPDATE")
    waiting = threading.Thread(target=action)
    waiting.start()
    wait_until(
        lambda: bench.look("SELECT 1 FROM pg_locks WHERE NOT granted"), timeout_seconds=5, what="it waits"
    )
    holder.command(f"{work}; COMMIT")
    holder.close()
    waiting.join(timeout=20)
    yield


def test_accepting_starts_the_topic_anew_and_nothing_else(bench: Bench, session: Session) -> None:
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
    assert lanes(bench, 2) == [(OTHER, 0, "thing.0", 3, 0)], "the other topic goes on where it was"
    ((verb, subject, reason, details),) = bench.look(
        "SELECT verb, subject, reason, details FROM sluice.audit"
    )
    assert (verb, subject, reason) == ("accept", TOPIC, "why")
    assert (details["topic_id_before"], details["topic_id"], details["epoch"]) == (TOPIC_ID, "id-new", 2)


def test_a_slice_of_the_old_epoch_does_nothing(bench: Bench, session: Session) -> None:
    bench.apply(slice_of([thing_set(0, amount=1)]))
    accept(session, "id-new")
    late = bench.apply(slice_of([thing_set(1, amount=2)], prev=0))
    assert late is not None
    assert dict(late.judgements) == {"rerouted": 1}
    assert bench.amounts() == {"k": 1}
    fresh = slice_of([thing_set(0, amount=3, event_id="f", version=9)], epoch=2)
    bench.apply(fresh._replace(topic_id="id-new"))
    assert bench.amounts() == {"k": 3}


def test_every_outcome_read_again_changes_nothing_but_counts_of_repeats(
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
    # A repeat has no row of its own by which it would be known as the very same record.
    counted = bench.look(f"SELECT * FROM sluice.lane_progress WHERE epoch = 2 AND topic = '{TOPIC}'")
    assert counted == [(TOPIC, 0, "thing.0", 2, 7, 0, 1, 0, 1, 0, 0, 0, 0)]


def claim_another_topic_goes_on(bench: Bench, session: Session) -> None:
    """What was applied of it does not come again."""
    bench.apply(slice_of([thing_set(0), thing_set(1, event_id="e0", version=0)]))
    before = bench.outcomes()
    old = read_topic_routing(session, OTHER)
    assert old is not None
    accept_topic(session, OTHER, old, old, LOGS, WHO)
    judged = bench.apply(slice_of([thing_set(0), thing_set(1, event_id="e0", version=0)], epoch=2))
    assert judged is not None
    assert not judged.outcomes
    assert bench.outcomes() == before


def test_another_topic_of_the_entity_type_goes_on_where_it_was(bench: Bench, session: Session) -> None:
    claim_another_topic_goes_on(bench, session)


def test_lanes_of_other_topics_must_be_carried(
    bench: Bench, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "carry_lanes", lambda *_, **__: 0)
    with pytest.raises(AssertionError):
        claim_another_topic_goes_on(bench, session)


def test_accepting_waits_for_the_batch_in_hand(bench: Bench, session: Session, database_url: str) -> None:
    work = f"UPDATE sluice.lane_progress SET applied_offset = 50 WHERE topic = '{OTHER}'"
    with in_hand(bench, database_url, work, lambda: accept(session)):
        assert lanes(bench, 2) == [(OTHER, 0, "thing.0", 50, 0)]


def test_of_two_who_accept_one_is_told(bench: Bench, session: Session) -> None:
    before = read_topic_routing(session, TOPIC)
    assert before is not None
    accept(session, "id-new")
    with pytest.raises(NotDone, match="look again"):
        accept_topic(session, TOPIC, before, TopicRouting("id-newer", "thing"), LOGS, WHO)
    assert bench.look("SELECT epoch FROM sluice.entities WHERE entity = 'thing'") == [(2,)]


def claim_resharded_whole(bench: Bench, session: Session) -> None:
    """Everything that follows from the shard count follows it, in one step."""
    bench.apply(slice_of([made(n, "thing.broken", f"k{n}") for n in range(8)]))
    settle_all(bench)
    done = reshard(session, 4)
    assert isinstance(done, Resharded)
    assert done.new_queues == ("thing.1", "thing.2", "thing.3")
    for place, assignment in read_assignments(session, [(TOPIC, 0), (TOPIC, 7), (OTHER, 0)]).items():
        assert (assignment.epoch, assignment.shards, assignment.applied) == (2, 4, {})
        verdict = judge_assignment(*place, assignment, topic_id=assignment.topic_id, log=Log(0, 100))
        assert verdict == Start(assignment, 50), "the bridge would not start"
    parked = dict(bench.look("SELECT key, queue FROM sluice.parked_entities"))
    assert parked == {f"k{n}": queue_name("thing", shard_of(b"k%d" % n, 4)) for n in range(8)}
    assert lanes(bench, 1) != [], "counters are kept"
    assert bench.look("SELECT verb, subject FROM sluice.audit") == [("accept", "thing")]
    assert len(bench.look("SELECT queue FROM sluice.queues WHERE entity = 'thing'")) == 4


def test_resharding_is_whole(bench: Bench, session: Session) -> None:
    claim_resharded_whole(bench, session)


def test_fewer_shards_leave_the_rows_of_the_others(bench: Bench, session: Session) -> None:
    settle_all(bench)
    reshard(session, 4)
    done = reshard(session, 2)
    assert isinstance(done, Resharded)
    assert done.unused_queues == ("thing.2", "thing.3")
    assert len(bench.look("SELECT queue FROM sluice.queues WHERE entity = 'thing'")) == 4
    assert bench.look("SELECT shards, epoch FROM sluice.entities WHERE entity = 'thing'") == [(2, 3)]


@pytest.mark.parametrize(
    ("unsettled", "found"),
    [
        (
            f"UPDATE sluice.partition_progress SET watermark = 3 WHERE topic = '{OTHER}'",
            Unsettled(1, 0, 0, 0),
        ),
        ("SELECT", Unsettled(1, 1, 0, 0)),
        ("UPDATE sluice.queues SET halted_reason = 'no' WHERE queue = 'thing.0'", Unsettled(1, 1, 0, 1)),
        (
            "INSERT INTO sluice.outbox_refusals (queue, id, topic, key, error)"
            " SELECT queue, id, topic, key, 'no' FROM sluice.outbox_events",
            Unsettled(1, 1, 1, 0),
        ),
    ],
    ids=["at the watermark", "as applied", "halted", "refused"],
)
def test_what_is_in_hand_holds_it_up_unless_forced(
    bench: Bench, session: Session, unsettled: str, found: Unsettled
) -> None:
    bench.apply(slice_of([thing_set(0)]))
    if found.outgoing == 0:
        settle_all(bench)
    bench.look(unsettled)
    assert reshard(session, 4) == found
    assert bench.look("SELECT shards, epoch FROM sluice.entities WHERE entity = 'thing'") == [(1, 1)]
    assert len(bench.look("SELECT queue FROM sluice.queues WHERE entity = 'thing'")) == 1
    assert isinstance(reshard(session, 4, force=True), Resharded)


def claim_judged_under_the_locks(bench: Bench, session: Session, database_url: str) -> None:
    """A batch that comes between the look and the locks is seen."""
    settle_all(bench)
    found: list[object] = []
    work = f"UPDATE sluice.lane_progress SET applied_offset = 60 WHERE topic = '{OTHER}'"
    with in_hand(bench, database_url, work, lambda: found.append(reshard(session, 4))):
        assert found == [Unsettled(1, 0, 0, 0)]
        assert bench.look("SELECT shards, epoch FROM sluice.entities WHERE entity = 'thing'") == [(1, 1)]


def test_resharding_judges_under_the_locks(bench: Bench, session: Session, database_url: str) -> None:
    claim_judged_under_the_locks(bench, session, database_url)


def test_epochs_of_partitions_must_follow(
    bench: Bench, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = mutated(rerouting, "    session.run(RAISE_PARTITION_EPOCHS, entity, epoch)\n", "")
    monkeypatch.setattr(changes, "raise_epoch", mutant.raise_epoch)
    with pytest.raises(AssertionError, match="would not start"):
        claim_resharded_whole(bench, session)


def test_parked_entities_must_move(bench: Bench, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "move_parked", lambda *_: None)
    with pytest.raises(AssertionError, match=r"thing\.\d"):
        claim_resharded_whole(bench, session)


@pytest.mark.parametrize("checked", ["before the locks", "never"])
def test_what_is_in_hand_must_be_judged_under_the_locks(
    bench: Bench, session: Session, database_url: str, monkeypatch: pytest.MonkeyPatch, checked: str
) -> None:
    early = rerouting.read_unsettled(session, "thing") if checked == "before the locks" else None
    settled = early._replace(lanes=0) if early else Unsettled(0, 0, 0, 0)
    monkeypatch.setattr(changes, "read_unsettled", lambda *_: settled)
    with pytest.raises(AssertionError):
        claim_judged_under_the_locks(bench, session, database_url)


def everything(bench: Bench) -> list[list[tuple[Any, ...]]]:
    """All that a batch may write but progress."""
    names = ("dead_letters", "processed_events", "outbox_events", "executed_side_effects", "parked_entities")
    tables = ["public.things", *(f"sluice.{name}" for name in names)]
    return [bench.look(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]
