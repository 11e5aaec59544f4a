"""Reads one record whole, of any size, if a message could not carry it."""

from collections.abc import Callable
from contextlib import closing
from typing import TypeAlias

from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place

ReadWhole: TypeAlias = Callable[[Place, int], Record | None]
"""Reads the record at an offset whole; None if Kafka has none there. Raises RecordNotRead."""


class RecordNotRead(Exception):
    """Raised if Kafka did not return the record; Kafka may still have it."""


def read_whole_record(bootstrap_servers: str, place: Place, offset: int) -> Record | None:
    """Returns the record at exactly this offset; None if Kafka has none there. Raises RecordNotRead."""
    # Imported only here: the import of the client takes a tenth of the start time of a command.
    from sluice.kafka_io.log_reader import LogReader, LogsUnavailable
    from sluice.kafka_io.partition_reader import PartitionStalled, RecordUnreadable

    try:
        with closing(LogReader(bootstrap_servers)) as reader:
            return reader.read_record(place, offset)
    except (LogsUnavailable, PartitionStalled, RecordUnreadable) as error:
        raise RecordNotRead(str(error)) from error
