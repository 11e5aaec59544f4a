"""Workers with different code share queues on a real Postgres. Each takes the queues that it declares."""

from collections.abc import Iterator

import pytest
import structlog

from sluice.db.connection import Session
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.worker.queue_yields import YIELDED_SECONDS
from tests.db.worker.leasing import Member, Workers

QUEUES = {"thing.0", "thing.1"}
OLD, NEW = {"thing": ["things"]}, {"thing": ["things", "news"], "other": ["others"]}


@pytest.fixture
def workers(database_url: str, session: Session) -> Iterator[Workers]:
    """Yields workers on a database with three topics of two entity types."""
    for topic, entity in (("things", "thing"), ("news", "thing"), ("others", "other")):
        register_topic(session, TopicStart(topic, f"id-{topic}", entity, 2, {0: 0}))
    made = Workers(database_url)
    with structlog.testing.capture_logs():
        yield made
    made.close()


def test_a_worker_takes_no_queue_of_an_entity_type_that_it_does_not_declare(workers: Workers) -> None:
    old = workers.join(OLD)
    workers.turns()
    assert old.consumed == QUEUES


def test_a_newer_worker_takes_all_queues_that_it_declares_and_releases_them_at_its_end(
    workers: Workers,
) -> None:
    old = workers.join(OLD)
    workers.turns()
    new = workers.join(NEW)
    workers.turns()
    assert (old.consumed, new.consumed) == (set(), QUEUES | {"other.0", "other.1"})
    second = workers.join(NEW)
    workers.turns()
    assert sorted(len(member.consumed) for member in (new, second)) == [2, 2]
    for member in (workers.members.pop(), workers.members.pop()):
        member.leave()
    workers.turns()
    assert old.consumed == QUEUES


def test_several_workers_that_each_lack_a_topic_take_turns(workers: Workers) -> None:
    lacking = [workers.join({"thing": ["things"]}) for _ in range(3)]
    workers.turns()
    other = workers.join({"thing": ["news"]})
    held: dict[str, list[Member]] = {}
    for _ in range(80):
        workers.turns(1)
        for member in workers.members:
            # In each of its queues, a worker finds a slice of a topic that it does not declare.
            topics = ["things"] if member is other else ["news"]
            for queue in member.consumed:
                member.lease_thread.yields.note(queue, topics=topics)
                turns = held.setdefault(queue, [])
                if turns[-1:] != [member]:
                    turns.append(member)
    for queue in QUEUES:
        assert len([one for one in held[queue] if one is other]) >= 2, (
            "this worker is the only one that declares topic news"
        )
        assert len([one for one in held[queue] if one in lacking]) >= 2


def test_a_worker_keeps_queues_that_no_other_worker_could_serve_better(workers: Workers) -> None:
    old, same = workers.join(OLD), workers.join(OLD)
    workers.turns()
    before = {*old.consumed}
    for queue in before:
        old.lease_thread.yields.note(queue, topics=["news"])
    for _ in range(2 * int(YIELDED_SECONDS)):
        workers.turns(1)
    assert (old.consumed, same.consumed) == (before, QUEUES - before)
