"""Reads a partition's log for a rebuild, without the records that an operator skipped."""

import structlog

from sluice.db.connection import Session
from sluice.db.delivery.skipped_records import read_skipped_ranges
from sluice.kafka_io.partition_reader import (
    LogIncomplete,
    PartitionReader,
    PartitionStalled,
    RecordUnreadable,
)
from sluice.kafka_io.record_types import Record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import next_unskipped

log = structlog.get_logger("sluice.rebuild")


class RebuildReader:
    """A PartitionReader that also passes over records that are skipped later. Must be closed."""

    def __init__(
        self, session: Session, access: KafkaAccess, place: Place, offset: int, *, max_record_bytes: int
    ) -> None:
        """Begins to read at `offset`. For `max_record_bytes`, see PartitionReader."""
        self._session = session
        self._access = access
        self._place = place
        self._max_record_bytes = max_record_bytes
        self._reader = self._open(offset)

    @property
    def read_through(self) -> int:
        """Returns the offset up to which every committed record was returned or skipped."""
        return self._reader.read_through

    def read(self, timeout_seconds: float) -> list[Record]:
        """Returns the next records, [] if none arrive in time. Raises LogIncomplete."""
        try:
            return self._reader.read(timeout_seconds)
        except PartitionStalled as error:
            log.warning("rebuild waits for Kafka", error=error)
            # A new client reads the files of its login again.
            self._reader.close()
            self._reader = self._open(self.read_through + 1)
        except RecordUnreadable as error:
            # A rebuild reads no further than the bridge. So the record was skipped after this reader was
            # opened, or only the bridge's client can read it.
            self._reader.close()
            self._reader = self._open(error.offset)
            if self._reader.read_through < error.offset:
                raise LogIncomplete(str(error)) from error
        return []

    def close(self) -> None:
        """Ends the connections."""
        self._reader.close()

    def _open(self, offset: int) -> PartitionReader:
        skipped = read_skipped_ranges(self._session).get(self._place, ())
        return PartitionReader(
            self._access,
            self._place,
            next_unskipped(skipped, offset),
            skipped=skipped,
            max_record_bytes=self._max_record_bytes,
        )
