"""Topics that `sluice accept` has changed, and for which a rebuild is refused, on a real Postgres."""

from dataclasses import replace

import pytest

from sluice.admin.accept import accept_topic
from sluice.admin.rebuild.accepted_topics import (
    AcceptedTopic,
    displaced_refusals,
    left_to_read,
    moved_note,
    read_accepted,
)
from sluice.db.admin.rerouting import TopicRouting, read_topic_routing
from sluice.db.connection import Session
from sluice.kafka_io.log_range import LogRange
from tests.db.admin import rerouting
from tests.db.admin.rerouting import DECISION, OTHER
from tests.db.tasks.applying import TOPIC, TOPIC_ID, Bench, slice_of, thing_set

bench = rerouting.bench


def accept(session: Session, topic_id: str, end: int) -> None:
    before = read_topic_routing(session, TOPIC)
    assert before is not None
    accept_topic(session, TOPIC, before, TopicRouting(topic_id, "thing"), {0: LogRange(0, end)}, DECISION)


def accepted(session: Session) -> AcceptedTopic:
    [found] = read_accepted(session, [TOPIC, OTHER])
    return found


def refusals(bench: Bench, session: Session, *, by_position: bool = False) -> list[str]:
    topic = bench.registry.topics[TOPIC]
    topics = {TOPIC: replace(topic, dedup="position") if by_position else topic}
    return list(displaced_refusals(session, topics, [accepted(session)]))


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("tombstone", [False, True])
@pytest.mark.parametrize(
    ("topic_id", "end", "how"),
    [("id-new", 9, "was created again or moved"), (TOPIC_ID, 1, "lost the end"), (TOPIC_ID, 9, None)],
)
def test_a_topic_with_changed_offsets_is_refused_if_events_are_identified_by_offset(
    bench: Bench,
    session: Session,
    topic_id: str,
    end: int,
    how: str | None,
    tombstone: bool,
    by_position: bool,
) -> None:
    bench.apply(slice_of([thing_set(0), thing_set(1)]))
    if tombstone:
        bench.look("UPDATE sluice.processed_events SET event_id = NULL WHERE event_id = 'e1'")
    accept(session, topic_id, end)
    bench.apply(slice_of([thing_set(0, event_id="new")], epoch=2)._replace(topic_id=topic_id))
    found = refusals(bench, session, by_position=by_position)
    assert len(found) == (how is not None and (tombstone or by_position))
    if found:
        assert how is not None
        assert f"it {how}" in found[0]
        assert ('dedup="position"' if by_position else "tombstones without id") in found[0]


def test_a_topic_with_positions_that_lost_its_end_is_refused(bench: Bench, session: Session) -> None:
    bench.look("UPDATE sluice.topics SET dedup = 'position'")
    bench.apply(slice_of([thing_set(0), thing_set(1)]))
    accept(session, TOPIC_ID, 9)
    assert refusals(bench, session, by_position=True) == []
    # Lanes continue, so no record is read again.
    assert list(left_to_read(accepted(session))) == []
    accept(session, TOPIC_ID, 1)
    [found] = refusals(bench, session, by_position=True)
    assert "it lost the end" in found


@pytest.mark.parametrize("outcome", ["dead", "waiting", "conflict", "ignored"])
def test_events_that_wrote_no_row_cause_no_refusal(bench: Bench, session: Session, outcome: str) -> None:
    bench.apply(slice_of([thing_set(0)]))
    bench.look(f"UPDATE sluice.processed_events SET event_id = NULL, outcome = '{outcome}'")
    accept(session, "id-new", 9)
    assert refusals(bench, session) == []


def test_events_after_the_accept_cause_no_refusal(bench: Bench, session: Session) -> None:
    accept(session, "id-new", 9)
    bench.apply(slice_of([thing_set(0)], epoch=2)._replace(topic_id="id-new"))
    bench.look("UPDATE sluice.processed_events SET event_id = NULL")
    assert refusals(bench, session) == []
    assert "was created again or moved" in moved_note("totals", accepted(session))


@pytest.mark.parametrize(("watermark", "left"), [(0, [(0, 0, 9)]), (8, [(0, 8, 9)]), (9, []), (20, [])])
def test_the_offsets_left_to_read_end_where_the_log_ended_at_the_accept(
    bench: Bench, session: Session, watermark: int, left: list[tuple[int, int, int]]
) -> None:
    accept(session, TOPIC_ID, 9)
    bench.look(f"UPDATE sluice.partition_watermarks SET watermark = {watermark} WHERE topic = '{TOPIC}'")
    assert list(left_to_read(accepted(session))) == left


def test_a_topic_that_was_never_accepted_is_not_listed(session: Session) -> None:
    assert read_accepted(session, [TOPIC, "unknown"]) == []
