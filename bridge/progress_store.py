"""What the bridge knows from Postgres and tells it, as the loop needs it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar
from uuid import UUID

from sluice.bridge.inflight import Watermarks
from sluice.db.connection import Session
from sluice.db.delivery import partition_reads, progress, skipped_records, switches
from sluice.db.delivery.partition_reads import PartitionRead
from sluice.db.delivery.progress import Assignment, TopicStart
from sluice.db.errors import Fault, whose_fault
from sluice.db.records import PartitionProblem
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange

T = TypeVar("T")


class ProgressStoreUnavailable(Exception):
    """Postgres does not answer as it should, for now: try again later."""


class Progress(NamedTuple):
    """One snapshot: what Postgres says of partitions, the queues that are halted, the topics paused."""

    partitions: Mapping[Place, Assignment]
    halted: frozenset[str]
    paused: frozenset[str]


class ProgressStore(Protocol):
    """Idempotent methods; each may raise ProgressStoreUnavailable, its outcome being unknown then."""

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        """What Postgres says of partitions, of one moment; those of unknown topics are missing."""

    def register_topic(self, start: TopicStart) -> None:
        """Gives a topic and its partitions rows; what is there stays."""

    def read_progress(self, places: Iterable[Place]) -> Progress:
        """What Postgres says now."""

    def settle_progress(self, places: Iterable[Place], decide: Callable[[Progress], Watermarks]) -> None:
        """Reads progress and writes what is decided from it, in one transaction of one snapshot."""

    def read_skipped(self) -> Mapping[Place, Sequence[SkippedRange]]:
        """Returns the offsets that operators skipped, of partitions that have any."""

    def claim_instance(self) -> int:
        """The lowest number that no living bridge has; this one's until the connection ends."""

    def keep_instance(self, instance: int) -> bool:
        """Whether the number is still, or again, this bridge's."""

    def write_reads(
        self,
        reader: UUID,
        *,
        reading: Iterable[Place],
        problems: Mapping[Place, PartitionProblem],
        seen: Iterable[Place],
    ) -> None:
        """Writes which partitions this bridge reads, and why it does not read others."""

    def read_reads(self) -> list[PartitionRead]:
        """Returns what all bridges wrote."""


class PostgresProgressStore:
    """See ProgressStore. Opens its connection when first asked, and a new one after every failure."""

    def __init__(self, session: Session, group: str) -> None:
        self._session = session
        self._group = group

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        """See ProgressStore."""
        return self._tried(lambda: progress.read_assignments(self._session, places))

    def register_topic(self, start: TopicStart) -> None:
        """See ProgressStore."""
        self._tried(lambda: progress.register_topic(self._session, start))

    def read_progress(self, places: Iterable[Place]) -> Progress:
        """See ProgressStore."""
        return self._tried(lambda: self._read(places))

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
        return self._tried(lambda: progress.claim_instance(self._session, self._group))

    def keep_instance(self, instance: int) -> bool:
        """See ProgressStore."""
        return self._tried(lambda: progress.try_instance(self._session, self._group, instance))

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
        """Ends the connection. May run twice."""
        self._session.close()

    def _read(self, places: Iterable[Place]) -> Progress:
        return Progress(
            progress.read_assignments(self._session, places),
            progress.read_halted(self._session),
            frozenset(switches.read_paused_topics(self._session)),
        )

    def _tried(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:
            if whose_fault(error) is not Fault.SURROUNDINGS:
                raise
            # Perhaps this server is no primary any more: the next try looks again.
            self._session.close()
            raise ProgressStoreUnavailable(str(error).strip()) from error
