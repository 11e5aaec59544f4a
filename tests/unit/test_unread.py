"""Partitions that no member has: when a bridge sees to them, and that it does so once."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bridge.consumer import TopicFacts
from bridge.doorbell import DoorbellAway
from bridge.holdings import Holdings
from bridge.loop import REJOIN_SECONDS, Bridge
from bridge.metrics import BridgeMetrics
from bridge.store import Progress
from bridge.unread import UNREAD_SECONDS, Unread, overdue
from db.progress import Place

PLACES: list[Place] = [("t", 0), ("t", 1), ("u", 0)]
FACTS = {"t": TopicFacts("t-id", 2), "u": TopicFacts("u-id", 1)}


@given(st.lists(st.none() | st.sets(st.sampled_from([*PLACES, ("t", 9), ("gone", 0)])), min_size=1))
def test_what_was_in_nobodys_hands_in_every_answer_of_late_is_unread_since_the_first(
    answers: list[set[Place] | None],
) -> None:
    unread = Unread()
    for now, held in enumerate(answers):
        unread.note(FACTS, held, float(now))
    newest = len(answers) - 1
    for place in PLACES:
        run = 0
        for held in reversed(answers):
            if held is None or place in held:
                break
            run += 1
        found = unread.seconds(float(newest)).get(place)
        assert found == (run - 1 if run else None)
    assert unread.seconds(0.0).keys() <= set(PLACES)


def test_of_several_bridges_the_one_with_the_lowest_number_is_first() -> None:
    unread = {("t", 1): UNREAD_SECONDS, ("t", 0): 2 * UNREAD_SECONDS, ("u", 0): UNREAD_SECONDS - 1}
    assert overdue(unread, 0) == [("t", 0), ("t", 1)]
    assert overdue(unread, 1) == [("t", 0)]
    assert overdue(unread, 2) == []


class _Kafka:
    """A member with nothing to read."""

    closed = False

    def poll(self, _: float) -> dict[Place, list[Any]]:
        return {}

    def take_changes(self) -> frozenset[Place]:
        return frozenset()

    def assignment(self) -> frozenset[Place]:
        return frozenset()

    def topics(self) -> dict[str, TopicFacts]:
        return {}

    def paused(self) -> frozenset[Place]:
        return frozenset()

    def commit(self, _: Mapping[Place, int]) -> None:
        return

    def close(self) -> None:
        self.closed = True


class _Postgres:
    def claim_instance(self) -> int:
        return 0

    def keep_instance(self, _: int) -> bool:
        return True

    def read_progress(self, _: Iterable[Place]) -> Progress:
        return Progress({}, frozenset(), frozenset())

    def settle_progress(self, places: Iterable[Place], decide: Any) -> None:
        decide(self.read_progress(places))


class _NoRedis:
    def probe(self, _: Iterable[str]) -> Any:
        raise DoorbellAway("none here")


@pytest.fixture
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.usefixtures("quiet")
def test_a_bridge_joins_anew_under_another_name_and_not_again_and_again() -> None:
    now = [0.0]
    unread: dict[Place, float] = {}
    opened: list[tuple[str, _Kafka]] = []

    def make(name: str) -> Any:
        opened.append((name, _Kafka()))
        return opened[-1][1]

    store: Any = _Postgres()
    doorbell: Any = _NoRedis()
    bridge = Bridge(
        make_consumer=make,
        find_unread=lambda _: unread,
        store=store,
        doorbell=doorbell,
        topics={},
        holdings=Holdings(max_bytes=1_000, max_span=1_000),
        metrics=BridgeMetrics(),
        clock=lambda: now[0],
        sleep=lambda _: None,
    )

    def turn_for(seconds: float) -> None:
        for _ in range(2):
            now[0] += seconds / 2
            bridge.run_once()

    turn_for(5.0)
    assert [name for name, _ in opened] == ["bridge-0"]
    unread["t", 1] = UNREAD_SECONDS
    turn_for(5.0)
    (_, first), (name, second) = opened
    assert (first.closed, second.closed) == (True, False)
    assert name.startswith("bridge-0-")
    turn_for(REJOIN_SECONDS - 10.0)
    assert len(opened) == 2
    turn_for(20.0)
    assert len(opened) == 3
    assert opened[2][0] not in ("bridge-0", name)
