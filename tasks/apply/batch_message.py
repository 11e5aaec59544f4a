"""The content of a Celery message from the bridge to the task `apply`: slices of lanes, as raw bytes."""

from typing import NamedTuple

from sluice.kafka_io.record_types import Record


class Slice(NamedTuple):
    """A slice of a lane. It claims that the lane's records in (prev, last] are exactly `records`.

    The claim is a fact about the log, so any process may send the slice any number of times. `records` is
    never empty and is sorted by offset. `prev` is the offset of the record that the sender read in the lane
    before `records`.
    """

    topic: str
    topic_id: str
    partition: int
    epoch: int
    prev: int
    records: list[Record]

    @property
    def last(self) -> int:
        """Offset of the newest record."""
        return self.records[-1].offset
