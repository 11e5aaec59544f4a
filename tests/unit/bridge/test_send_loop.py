"""What the bridge does with a record that fits into no message."""

from collections.abc import Sequence

import pytest

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.publisher import Probe
from sluice.bridge.send_loop import SendLoop
from sluice.bridge.topic_stops import TopicStopped
from sluice.runtime.redis_item import MessageTooLarge
from sluice.tasks.apply.batch_message import Slice
from tests.unit.bridge.bridging import PLACE, assignment, holding, record


class Narrow:
    """A publisher for which every message is too large."""

    def publish(self, queue: str, slices: list[Slice]) -> None:
        raise MessageTooLarge(f"simulated: {queue}, {len(slices)} slices")

    def probe(self, queues: Sequence[str]) -> Probe:
        return Probe(dict.fromkeys(queues, 0), "sentinel")


def test_a_record_that_fits_into_no_message_stops_its_topic_and_is_named() -> None:
    inflight = holding({PLACE: assignment()})
    inflight.take(PLACE, [record(7)], 0.0)
    loop = SendLoop(Narrow(), inflight, BridgeMetrics())
    with pytest.raises(TopicStopped, match=r"t\[0\] offset 7 is too large"):
        loop.send_due(1.0)
