"""Tests how the bridge treats records that are too large for a message or that older workers cannot read."""

from collections.abc import Sequence

import pytest

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.lanes import HELD_SECONDS
from sluice.bridge.publisher import Probe
from sluice.bridge.send_loop import SendLoop
from sluice.bridge.topic_stops import TopicStopped
from sluice.kafka_io.record_types import Flaw
from sluice.runtime.place import Place
from sluice.runtime.redis_item import MessageTooLarge
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.task_messages import FormatTooOld
from sluice.tasks.task_sender import Sent
from tests.unit.bridge.bridging import EMPTY, NOWHERE, PLACE, assignment, holding, record

OTHER: Place = ("t", 1)


class Narrow:
    """A publisher for which every message is too large."""

    def publish(self, queue: str, slices: list[Slice]) -> Sent:
        raise MessageTooLarge(f"simulated: {queue}, {len(slices)} slices")

    def probe(self, queues: Sequence[str], searched: Sequence[str]) -> Probe:
        return Probe(dict.fromkeys(queues, EMPTY), dict.fromkeys(searched, NOWHERE), "sentinel")


class Rolling:
    """A publisher that refuses records with a flaw while older workers run."""

    def __init__(self) -> None:
        self.old_workers = True
        self.sent: dict[int, list[int]] = {}

    def publish(self, queue: str, slices: list[Slice]) -> Sent:
        if self.old_workers and any(r.flaw is not None for piece in slices for r in piece.records):
            raise FormatTooOld("simulated")
        for piece in slices:
            self.sent[piece.partition] = [r.offset for r in piece.records]
        return Sent(queue, 0, 1)

    def probe(self, queues: Sequence[str], searched: Sequence[str]) -> Probe:
        return Probe(dict.fromkeys(queues, EMPTY), dict.fromkeys(searched, NOWHERE), "sentinel")


def test_a_record_that_is_too_large_for_a_message_stops_its_topic_and_is_named() -> None:
    inflight = holding({PLACE: assignment()})
    inflight.take(PLACE, [record(7)], 0.0)
    loop = SendLoop(Narrow(), inflight, BridgeMetrics())
    with pytest.raises(TopicStopped, match=r"t\[0\] offset 7 is too large"):
        loop.send_due(1.0)


def test_only_a_lane_with_a_flawed_record_waits_until_older_workers_have_ended() -> None:
    inflight = holding({PLACE: assignment(), OTHER: assignment()})
    publisher = Rolling()
    loop = SendLoop(publisher, inflight, BridgeMetrics())
    inflight.take(PLACE, [record(7), record(8)._replace(flaw=Flaw(1)), record(9)], 0.0)
    inflight.take(OTHER, [record(3)], 0.0)
    loop.send_due(1.0)
    inflight.take(PLACE, [record(10)], 1.5)
    loop.send_due(2.0)
    assert publisher.sent == {1: [3]}
    publisher.old_workers = False
    loop.send_due(1.0 + HELD_SECONDS)
    assert publisher.sent == {0: [7, 8, 9, 10], 1: [3]}, "the records are in order, and none is skipped"
