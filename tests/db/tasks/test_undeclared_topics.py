"""A worker leaves slices of topics that it does not declare to other workers, and halts no queue."""

import pytest
import structlog

from sluice.tasks.apply import apply as apply_module
from sluice.tasks.apply.apply import Applied, Applier
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.fold.registry import Registry
from tests.db.tasks import applying
from tests.db.tasks.applying import QUEUE, TOPIC_ID, Bench, slice_of, thing_set
from tests.mutants import mutated

bench = applying.bench


@pytest.fixture(autouse=True)
def topics(bench: Bench) -> None:
    """Registers two more topics, as a bridge of newer code does."""
    for topic in ("news", "more"):
        bench.look(f"INSERT INTO sluice.topics VALUES ('{topic}', '{TOPIC_ID}', 'thing')")


def unknown(*offsets: int, topic: str = "news", prev: int = -1) -> Slice:
    """Returns a slice of a topic that the application does not declare."""
    return Slice(topic, TOPIC_ID, 0, 1, prev, [thing_set(offset) for offset in offsets])


def halted(bench: Bench) -> list[str]:
    return [reason for (reason,) in bench.look("SELECT halted_reason FROM sluice.queues") if reason]


def test_an_undeclared_slice_is_left_and_the_other_slices_are_applied(bench: Bench) -> None:
    applied = bench.apply(unknown(0, 1), slice_of([thing_set(3, amount=8)]), unknown(2, prev=1))
    assert applied is not None
    assert dict(applied.outcomes) == {"applied": 1}
    assert dict(applied.judgements) == {"undeclared": 1, "next": 1, "gap": 1}
    assert applied.undeclared == {"news"}
    assert bench.amounts() == {"k": 8}
    assert bench.look("SELECT topic, applied_offset FROM sluice.lane_offsets") == [("things", 3)]
    assert halted(bench) == []


def test_undeclared_slices_are_logged_once_a_minute_per_topic(bench: Bench) -> None:
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            bench.apply(unknown(0), unknown(0, topic="more"))
    assert [line["topic"] for line in logged] == ["more", "news"]


def test_a_process_that_declares_no_topic_of_the_queue_leaves_all_slices(bench: Bench) -> None:
    applied = Applier(bench.session, Registry()).apply(QUEUE, [unknown(0), slice_of([thing_set(0)])])
    assert isinstance(applied, Applied)
    assert (dict(applied.judgements), dict(applied.outcomes)) == ({"undeclared": 2}, {})
    assert (bench.look("SELECT 1 FROM sluice.lane_offsets"), halted(bench)) == ([], [])


def test_an_undeclared_slice_that_another_worker_has_applied_is_a_repeat(bench: Bench) -> None:
    bench.look(
        "INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset)"
        f" VALUES ('news', 0, '{QUEUE}', 1, 5)"
    )
    applied = bench.apply(unknown(4, 5, prev=3))
    assert applied is not None
    assert applied.undeclared == frozenset()


def test_a_mutant_that_refuses_undeclared_topics_halts_the_queue(bench: Bench) -> None:
    mutant = mutated(apply_module, "and piece.topic not in self._registry.topics:", "and False:")
    bench.applier = mutant.Applier(bench.session, bench.registry)
    with pytest.raises(AssertionError):
        test_an_undeclared_slice_is_left_and_the_other_slices_are_applied(bench)
