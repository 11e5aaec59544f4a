"""Offsets that `sluice skip` has stored apply only to the topic id that was stored with them."""

from sluice.db.connection import Session
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.delivery.skipped_records import (
    SkippedRecords,
    insert_skipped_records,
    read_skipped_ranges,
)
from sluice.runtime.skipped_range import SkippedRange


def test_skipped_offsets_of_a_recreated_topic_do_not_apply_to_the_new_topic(session: Session) -> None:
    register_topic(session, TopicStart("orders", "new", "order", 1, {0: 0, 1: 0}))
    for topic_id, partition, first, last in (
        ("new", 0, 9, 9),
        ("new", 0, 3, 4),
        ("new", 1, 3, 3),
        ("old", 0, 1, 2),
    ):
        row = SkippedRecords("orders", topic_id, partition, first, last, 1, "bad compression")
        insert_skipped_records(session, row)
    assert read_skipped_ranges(session) == {
        ("orders", 0): [SkippedRange(3, 4), SkippedRange(9, 9)],
        ("orders", 1): [SkippedRange(3, 3)],
    }
