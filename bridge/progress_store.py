"""The bridge's access to Postgres: assignments, progress, watermarks, and the report of partitions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol, TypeVar
from uuid import UUID

from sluice.bridge.inflight import Watermarks
from sluice.db.delivery import bridge_instances, partition_reads, progress, skipped_records, switches
from sluice.db.delivery.partition_reads import PartitionRead
from sluice.db.delivery.progress import Assignment, ProgressSession, TopicStart
from sluice.db.errors import Fault, whose_fault
from sluice.db.records import PartitionProblem
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange

T = TypeVar("T")


class ProgressStoreUnavailable(Exception):
    """Postgres is unavailable. The caller retries later."""


class Progress(NamedTuple):
    """One snapshot of Postgres: the partitions' progress, the halted queues, the paused topics."""

    partitions: Mapping[Place, Assignment]
    halted: frozenset[str]
    paused: frozenset[str]


class ProgressStore(Protocol):
    """The interface. All methods are idempotent.

    Each method may raise ProgressStoreUnavailable. Then it is unknown if the statement had an effect.
    """

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        """Returns the assignments of partitions in one snapshot. Omits partitions of unknown topics."""

    def register_topic(self, start: TopicStart) -> None:
        """Inserts the rows of a topic and its partitions. Existing rows stay unchanged."""

    def read_progress(self, places: Iterable[Place], queues: AbstractSet[str]) -> Progress:
        """Returns the current progress. The assignments contain only the lanes of these queues."""

    def settle_progress(self, places: Iterable[Place], decide: Callable[[Progress], Watermarks]) -> None:
        """Reads the progress, and writes the watermarks that `decide` returns for it, in one snapshot."""

    def read_skipped(self) -> Mapping[Place, Sequence[SkippedRange]]:
        """Returns partition → offsets that operators skipped. Omits partitions without skipped offsets."""

    def claim_instance(self) -> int:
        """Takes the lowest free number of a bridge, and returns it.

        The number is free again when the connection ends.
        """

    def keep_instance(self, instance: int) -> bool:
        """Returns True if this bridge still has the number, or could take the number again."""

    def write_reads(
        self,
        reader: UUID,
        *,
        reading: Iterable[Place],
        problems: Mapping[Place, PartitionProblem],
        seen: Iterable[Place],
    ) -> None:
        """Writes the partitions that this bridge reads, and the reasons why others are not read."""

    def read_reads(self) -> list[PartitionRead]:
        """Returns the reports of all bridges."""


class PostgresProgressStore:
    """See ProgressStore. Connects at its first use, and again after every failure."""

    def __init__(self, session: ProgressSession, group: str) -> None:
        self._session = session
        self._group = group

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        """See ProgressStore."""
        return self._tried(lambda: progress.read_assignments(self._session, places))

    def register_topic(self, start: TopicStart) -> None:
        """See ProgressStore."""
        self._tried(lambda: progress.register_topic(self._session, start))

    def read_progress(self, places: Iterable[Place], queues: AbstractSet[str]) -> Progress:
        """See ProgressStore."""
        return self._tried(lambda: self._read(places, queues))

    def settle_progress(self, places: Iterable[Place], decide: Callable[[Progress], Watermarks]) -> None:
        """See ProgressStore."""

        def settle() -> None:
            with self._session.transaction(progress.ONE_SNAPSHOT):
                progress.raise_watermarks(self._session, decide(self._read(places)))

        self._tried(settle)

    def read_skipped(self) -> Mapping[Place, Sequence[SkippedRange]]:
        """See ProgressStore."""
        return self._tried(lambda: skipped_records.read_skipped_ranges(self._session))

    def claim_instance(self) -> int:
        """See ProgressStore."""
        return self._tried(lambda: bridge_instances.claim_instance(self._session, self._group))

    def keep_instance(self, instance: int) -> bool:
        """See ProgressStore."""
        return self._tried(lambda: bridge_instances.try_instance(self._session, self._group, instance))

    def write_reads(
        self,
        reader: UUID,
        *,
        reading: Iterable[Place],
        problems: Mapping[Place, PartitionProblem],
        seen: Iterable[Place],
    ) -> None:
        """See ProgressStore."""
        self._tried(
            lambda: partition_reads.write_partition_reads(
                self._session, reader, reading=reading, problems=problems, seen=seen
            )
        )

    def read_reads(self) -> list[PartitionRead]:
        """See ProgressStore."""
        return self._tried(lambda: partition_reads.read_partition_reads(self._session))

    def close(self) -> None:
        """Ends the connection. Idempotent."""
        self._session.close()

    def _read(self, places: Iterable[Place], queues: AbstractSet[str] | None = None) -> Progress:
        return Progress(
            progress.read_assignments(self._session, places, queues),
            progress.read_halted(self._session),
            frozenset(switches.read_paused_topics(self._session)),
        )

    def _tried(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:
            if whose_fault(error) is not Fault.SURROUNDINGS:
                raise
            # This server may no longer be the primary, so the next attempt makes a new connection, which
            # checks that.
            self._session.close()
            raise ProgressStoreUnavailable(str(error).strip()) from error
