"""Reads one whole record of any size. Used for records that were too large for a message."""

from collections.abc import Callable
from contextlib import closing
from typing import TypeAlias

from sluice.kafka_io.record_types import Record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
from sluice.runtime.place import Place

ReadWhole: TypeAlias = Callable[[Place, int], Record | None]
"""Reads the whole record at an offset; None if Kafka has no record there. Raises RecordNotRead."""


class RecordNotRead(Exception):
    """Raised if Kafka did not return the record; Kafka may still have it."""


def read_whole_record(access: KafkaAccess, place: Place, offset: int) -> Record | None:
    """Returns the record at exactly this offset; None if Kafka has no record there. Raises RecordNotRead."""
    # Imported only here, because the import of the client takes a tenth of the start time of a command.
    from sluice.kafka_io.log_reader import LogReader, LogsUnavailable
    from sluice.kafka_io.partition_reader import PartitionStalled, RecordUnreadable

    try:
        with closing(LogReader(access, WHOLE)) as reader:
            return reader.read_record(place, offset)
    except (LogsUnavailable, PartitionStalled, RecordUnreadable) as error:
        raise RecordNotRead(str(error)) from error
