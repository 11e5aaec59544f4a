"""Tests when a bridge makes a new consumer, and when the bridge reports that a restart may help."""

from typing import Any

import pytest
import structlog

from sluice.bridge.bridge_health import UNHEALTHY_SECONDS
from sluice.bridge.group_member import REPLACE_SECONDS, STEADY_SECONDS, GroupMember
from sluice.bridge.inflight import Inflight
from sluice.bridge.read_report import UnreadPartitions
from sluice.kafka_io.consumer import BrokersAway, ConsumerBroken
from sluice.runtime.place import Place

NONE: frozenset[Place] = frozenset()
SOME = frozenset([("t", 0)])


class _Consumer:
    def __init__(self, assigned: frozenset[Place] = NONE, answers: bool = True) -> None:
        self.assigned, self.answers = assigned, answers

    def assignment(self) -> frozenset[Place]:
        return self.assigned

    def has_partitions(self) -> bool:
        return bool(self.assigned)

    def brokers_answer(self) -> bool:
        return self.answers

    def close(self) -> None:
        return


class _Store:
    def claim_instance(self) -> int:
        return 0


class _Member(GroupMember):
    """A member whose consumers fail at once with `error`, or work if `error` is None."""

    def __init__(self, error: Exception | None = None) -> None:
        self.now = 0.0
        self.made = 0
        self.error = error
        store: Any = _Store()
        inflight = Inflight(max_bytes=1, max_span=1)
        super().__init__(self._make, store, inflight, lambda: self.now)

    def _make(self, _: str) -> Any:
        self.made += 1
        if self.error is not None:
            raise self.error
        return _Consumer()

    def turn(self) -> None:
        """Makes a consumer if the member may open a consumer now."""
        if self.consumer is None and self.may_open(self.now):
            try:
                self.open(self.now)
            except ConsumerBroken as error:
                self.note_broken(error, self.now)

    def note(self, consumer: _Consumer, *, never: frozenset[Place], once: frozenset[Place]) -> None:
        given: Any = consumer
        self.note_unread(given, UnreadPartitions(never, once), self.now)


def test_consumers_that_break_at_once_are_replaced_with_growing_pauses_and_one_log_line_per_minute() -> None:
    member = _Member(ConsumerBroken("out of memory"))
    with structlog.testing.capture_logs() as lines:
        for _ in range(600):
            member.now += 0.1
            member.turn()
        for _ in range(2):
            assert not member.is_healthy(UNHEALTHY_SECONDS + 1)
    assert 10 < member.made < 60 / REPLACE_SECONDS + 10
    assert [line["event"] for line in lines] == ["consumer replaced", "bridge unhealthy: a restart may help"]


def test_a_bridge_is_healthy_again_after_a_consumer_has_worked_for_some_time() -> None:
    member = _Member(ConsumerBroken("out of memory"))
    with structlog.testing.capture_logs():
        member.turn()
        member.now, member.error = UNHEALTHY_SECONDS, None
        assert not member.is_healthy(member.now)
        member.turn()
        member.note(_Consumer(SOME), never=NONE, once=NONE)
        assert not member.is_healthy(member.now), (
            "the new consumer may break at once, like the consumer before"
        )
        member.now += STEADY_SECONDS
        member.note(_Consumer(SOME), never=NONE, once=NONE)
    assert member.is_healthy(member.now)


def test_a_bridge_without_a_broker_stays_healthy() -> None:
    member = _Member(BrokersAway("no broker answers"))
    with structlog.testing.capture_logs():
        for _ in range(100):
            member.now += 5.0
            member.turn()
    assert member.is_healthy(member.now)


@pytest.mark.parametrize(
    ("consumer", "never", "once", "healthy"),
    [
        (_Consumer(), NONE, NONE, True),  # a spare bridge
        (_Consumer(SOME), NONE, SOME, True),  # another bridge has lost a partition
        (_Consumer(answers=False), NONE, SOME, True),
        (_Consumer(), NONE, SOME, False),
        (_Consumer(), SOME, NONE, False),
    ],
)
def test_a_bridge_without_partitions_is_unhealthy_while_a_partition_has_no_bridge(
    consumer: _Consumer, never: frozenset[Place], once: frozenset[Place], healthy: bool
) -> None:
    member = _Member()
    for _ in range(14):
        member.note(consumer, never=never, once=once)
        member.now += 5.0
    with structlog.testing.capture_logs():
        assert member.is_healthy(member.now) is healthy
