"""Tests which partitions are not read because an operator paused their topic."""

from sluice.bridge.inflight import Inflight
from sluice.db.delivery.progress import Assignment

ASSIGNMENT = Assignment("id", "e", 1, 2, 1, 0)
PLACES = [("a", 0), ("a", 1), ("b", 0)]


def _inflight() -> Inflight:
    inflight = Inflight(max_bytes=1_000, max_span=1_000)
    for place in PLACES:
        inflight.start(place, ASSIGNMENT, 0)
    return inflight


def test_no_partition_is_read_before_the_paused_topics_are_known() -> None:
    inflight = _inflight()
    assert inflight.paused_by_hand() == set(PLACES)
    assert inflight.note_paused(frozenset()) == ([], [])
    assert inflight.paused_by_hand() == frozenset()


def test_a_topic_stays_paused_until_postgres_no_longer_lists_it() -> None:
    inflight = _inflight()
    assert inflight.note_paused(frozenset({"a", "elsewhere"})) == (["a", "elsewhere"], [])
    assert inflight.paused_by_hand() == {("a", 0), ("a", 1)}
    assert inflight.note_paused(frozenset({"a", "elsewhere"})) == ([], []), "a pause is reported one time"
    inflight.forget(("a", 0))
    assert inflight.paused_by_hand() == {("a", 1)}
    inflight.start(("a", 0), ASSIGNMENT, 5)
    assert ("a", 0) in inflight.paused_by_hand(), "a rebalance does not end the pause"
    assert inflight.note_paused(frozenset()) == ([], ["a", "elsewhere"])
    assert inflight.paused_by_hand() == frozenset()
