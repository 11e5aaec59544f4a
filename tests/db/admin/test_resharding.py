"""Resharding on a real Postgres: one transaction that locks all queues. Work in flight is a refusal."""

import pytest

from sluice.admin import reshard as reshard_module
from sluice.admin.reshard import Resharded, reshard_entity
from sluice.bridge.start_conditions import Start, judge_assignment
from sluice.db.admin import rerouting as rerouting_module
from sluice.db.admin.rerouting import Unsettled
from sluice.db.connection import Session
from sluice.db.delivery.progress import read_assignments
from sluice.kafka_io.log_range import LogRange
from sluice.tasks.events.routing import queue_name, shard_of
from tests.db.admin import rerouting
from tests.db.admin.rerouting import DECISION, OTHER, during_batch, lanes
from tests.db.tasks.applying import TOPIC, Bench, made, slice_of, thing_set
from tests.mutants import mutated

bench = rerouting.bench


def reshard(session: Session, shards: int, *, force: bool = False) -> Resharded | Unsettled:
    return reshard_entity(session, "thing", shards, DECISION, force=force)


def settle_all(bench: Bench) -> None:
    """Changes the database so that nothing is in flight."""
    bench.look("UPDATE sluice.partition_watermarks SET watermark = 50; DELETE FROM sluice.outbox_events")


def claim_resharding_is_complete(bench: Bench, session: Session) -> None:
    """Asserts that one reshard changes everything that depends on the shard count."""
    bench.apply(slice_of([made(n, "thing.broken", f"k{n}") for n in range(8)]))
    settle_all(bench)
    done = reshard(session, 4)
    assert isinstance(done, Resharded)
    assert done.new_queues == ("thing.1", "thing.2", "thing.3")
    for place, assignment in read_assignments(session, [(TOPIC, 0), (TOPIC, 7), (OTHER, 0)]).items():
        assert (assignment.epoch, assignment.shards, assignment.applied) == (2, 4, {})
        verdict = judge_assignment(*place, assignment, topic_id=assignment.topic_id, log=LogRange(0, 100))
        assert verdict == Start(assignment, 50), "the bridge would not start"
    parked = dict(bench.look("SELECT key, queue FROM sluice.parked_entities"))
    assert parked == {f"k{n}": queue_name("thing", shard_of(b"k%d" % n, 4)) for n in range(8)}
    assert lanes(bench, 1) != [], "counters are kept"
    assert bench.look("SELECT verb, subject FROM sluice.audit") == [("accept", "thing")]
    assert len(bench.look("SELECT queue FROM sluice.queues WHERE entity = 'thing'")) == 4


def test_resharding_changes_everything_that_depends_on_the_shard_count(
    bench: Bench, session: Session
) -> None:
    claim_resharding_is_complete(bench, session)


def test_resharding_to_fewer_shards_keeps_the_rows_of_unused_queues(bench: Bench, session: Session) -> None:
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
            f"UPDATE sluice.partition_watermarks SET watermark = 3 WHERE topic = '{OTHER}'",
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
    ids=["watermark behind", "not sent", "halted", "refused"],
)
def test_resharding_is_refused_while_work_is_in_flight_unless_forced(
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
    """Asserts that resharding is refused if a batch commits just before resharding gets the locks."""
    settle_all(bench)
    found: list[object] = []
    work = f"UPDATE sluice.lane_offsets SET applied_offset = 60 WHERE topic = '{OTHER}'"
    with during_batch(bench, database_url, work, lambda: found.append(reshard(session, 4))):
        assert found == [Unsettled(1, 0, 0, 0)]
        assert bench.look("SELECT shards, epoch FROM sluice.entities WHERE entity = 'thing'") == [(1, 1)]


def test_resharding_is_refused_if_a_batch_commits_just_before_the_locks(
    bench: Bench, session: Session, database_url: str
) -> None:
    claim_judged_under_the_locks(bench, session, database_url)


def test_a_mutant_that_does_not_raise_the_epochs_of_partitions_is_caught(
    bench: Bench, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = mutated(rerouting_module, "    session.run(RAISE_PARTITION_EPOCHS, entity, epoch)\n", "")
    monkeypatch.setattr(reshard_module, "raise_epoch", mutant.raise_epoch)
    with pytest.raises(AssertionError, match="would not start"):
        claim_resharding_is_complete(bench, session)


def test_a_mutant_that_does_not_move_parked_entities_is_caught(
    bench: Bench, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reshard_module, "move_parked", lambda *_: None)
    with pytest.raises(AssertionError, match=r"thing\.\d"):
        claim_resharding_is_complete(bench, session)


@pytest.mark.parametrize("checked", ["before the locks", "never"])
def test_mutants_that_do_not_read_work_in_flight_under_the_locks_are_caught(
    bench: Bench, session: Session, database_url: str, monkeypatch: pytest.MonkeyPatch, checked: str
) -> None:
    early = rerouting_module.read_unsettled(session, "thing") if checked == "before the locks" else None
    settled = early._replace(lanes=0) if early else Unsettled(0, 0, 0, 0)
    monkeypatch.setattr(reshard_module, "read_unsettled", lambda *_: settled)
    with pytest.raises(AssertionError):
        claim_judged_under_the_locks(bench, session, database_url)
