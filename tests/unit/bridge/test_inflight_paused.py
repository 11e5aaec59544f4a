"""Which partitions an operator's pause keeps from being read."""

from sluice.bridge.inflight import Holdings
from sluice.db.delivery.progress import Assignment

ASSIGNMENT = Assignment("id", "e", 1, 2, 1, 0)
PLACES = [("a", 0), ("a", 1), ("b", 0)]


def _holdings() -> Holdings:
    holdings = Holdings(max_bytes=1_000, max_span=1_000)
    for place in PLACES:
        holdings.start(place, ASSIGNMENT, 0)
    return holdings


def test_nothing_is_read_before_it_is_known_what_is_paused() -> None:
    holdings = _holdings()
    assert holdings.paused_by_hand() == set(PLACES)
    assert holdings.note_paused(frozenset()) == ([], [])
    assert holdings.paused_by_hand() == frozenset()


def test_a_paused_topic_is_paused_as_long_as_postgres_says_so() -> None:
    holdings = _holdings()
    assert holdings.note_paused(frozenset({"a", "elsewhere"})) == (["a", "elsewhere"], [])
    assert holdings.paused_by_hand() == {("a", 0), ("a", 1)}
    assert holdings.note_paused(frozenset({"a", "elsewhere"})) == ([], []), "said once"
    holdings.forget(("a", 0))
    assert holdings.paused_by_hand() == {("a", 1)}
    holdings.start(("a", 0), ASSIGNMENT, 5)
    assert ("a", 0) in holdings.paused_by_hand(), "a rebalance does not lift it"
    assert holdings.note_paused(frozenset()) == ([], ["a", "elsewhere"])
    assert holdings.paused_by_hand() == frozenset()
