"""Which partitions an operator's pause keeps from being read."""

from sluice.bridge.inflight import Inflight
from sluice.db.delivery.progress import Assignment

ASSIGNMENT = Assignment("id", "e", 1, 2, 1, 0)
PLACES = [("a", 0), ("a", 1), ("b", 0)]


def _inflight() -> Inflight:
    inflight = Inflight(max_bytes=1_000, max_span=1_000)
    for place in PLACES:
        inflight.start(place, ASSIGNMENT, 0)
    return inflight


def test_nothing_is_read_before_it_is_known_what_is_paused() -> None:
    inflight = _inflight()
    assert inflight.paused_by_hand() == set(PLACES)
    assert inflight.note_paused(frozenset()) == ([], [])
    assert inflight.paused_by_hand() == frozenset()


def test_a_paused_topic_is_paused_as_long_as_postgres_says_so() -> None:
    inflight = _inflight()
    assert inflight.note_paused(frozenset({"a", "elsewhere"})) == (["a", "elsewhere"], [])
    assert inflight.paused_by_hand() == {("a", 0), ("a", 1)}
    assert inflight.note_paused(frozenset({"a", "elsewhere"})) == ([], []), "said once"
    inflight.forget(("a", 0))
    assert inflight.paused_by_hand() == {("a", 1)}
    inflight.start(("a", 0), ASSIGNMENT, 5)
    assert ("a", 0) in inflight.paused_by_hand(), "a rebalance does not lift it"
    assert inflight.note_paused(frozenset()) == ([], ["a", "elsewhere"])
    assert inflight.paused_by_hand() == frozenset()
