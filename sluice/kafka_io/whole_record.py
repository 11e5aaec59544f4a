"""Reads one record whole, however large it is, for what a message could not carry."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeAlias

from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place

ReadWhole: TypeAlias = Callable[[Place, int], Record | None]
"""Reads the record at an offset whole; None if Kafka has none there. Raises RecordNotRead."""

READ_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # a record of the largest size that brokers allow takes seconds


class RecordNotRead(Exception):
    """Kafka has the record, or may have it, and it could not be read."""


def read_whole_record(bootstrap_servers: str, place: Place, offset: int) -> Record | None:
    """Returns the record at this very offset, None if Kafka has none there. Raises RecordNotRead."""
    # Imported when a record is read: the client takes a tenth of the start of a command.
    from sluice.kafka_io.partition_reader import (
        LogIncomplete,
        PartitionReader,
        PartitionStalled,
        RecordUnreadable,
    )

    deadline = time.monotonic() + PATIENCE_SECONDS
    with closing(PartitionReader(bootstrap_servers, place, offset)) as reader:
        while time.monotonic() < deadline:
            try:
                records = reader.read(READ_SECONDS)
            except LogIncomplete:
                return None
            except (PartitionStalled, RecordUnreadable) as error:
                raise RecordNotRead(str(error)) from error
            if records:
                return records[0] if records[0].offset == offset else None
            if reader.read_through >= offset:
                return None
    topic, partition = place
    raise RecordNotRead(
        f"Kafka returned nothing of {topic}:{partition}:{offset} within {PATIENCE_SECONDS:.0f} s"
    )
