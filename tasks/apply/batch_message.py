"""What one Celery message carries from the bridge to the task `apply`: slices of lanes, as raw bytes."""

from typing import NamedTuple

from sluice.kafka_io.record_types import Record


class Slice(NamedTuple):
    """The claim: the lane's records in (prev, last] are exactly these.

    A fact about the log, so it may be sent by anyone, any number of times. `records` is never empty and
    rises by offset; `prev` is the offset of the lane's last record before them, as its sender knows it.
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
