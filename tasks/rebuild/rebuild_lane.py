"""The state of a lane in a rebuild, its next records, and the effects that a rebuild refuses. Pure."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sluice.db.errors import DeploymentBroken
from sluice.db.projections.generation_lanes import FOLDED, UNKNOWN
from sluice.db.projections.generation_records import Known
from sluice.db.records import Outcome
from sluice.kafka_io.record_types import Record, size_bytes
from sluice.tasks.api import Call, Effect, Emit, Increment, Topic
from sluice.tasks.events.decode import Decoded
from sluice.tasks.fold.fold_state import TAKEN
from sluice.tasks.fold.plan import HandlerRun

REPEATED = "repeated"
CHUNK_RECORDS = 200  # per transaction; a worker may have to wait until the transaction ends
CHUNK_SECONDS = 0.1  # target time of one chunk
FEWEST_RECORDS = 1  # also the size of the first chunk, when the speed of the handlers is not known


class Chunk(NamedTuple):
    """The first `records` waiting records of a lane. Afterwards the lane's offset is `reaches`."""

    records: int
    reaches: int
    locked: bool
    """True if the chunk reaches the live offset. The queue must then be locked, to hold this offset."""


def next_chunk(
    offsets: Sequence[int],
    *,
    live: int,
    read_through: int,
    most: int = CHUNK_RECORDS,
    is_full: bool = False,
) -> Chunk | None:
    """Returns the next chunk of a lane that lags, None if more records must be read first.

    `offsets` are the waiting records of the lane, ascending. `live` is the live generation's offset in the
    lane. Every record of the partition at or below `read_through` was read. Records above `live` wait,
    because a generation never passes `live`. The chunk reaches `live` only if no earlier record is left.
    `is_full`: the buffer is full, so a chunk must be taken before the next read.
    """
    due = bisect_right(offsets, live)
    if due > most:
        return Chunk(most, offsets[most - 1], locked=False)
    if read_through >= live:
        return Chunk(due, live, locked=True)
    return Chunk(due, offsets[due - 1], locked=False) if is_full and due else None


def adapted(most: int, records: int, seconds: float) -> int:
    """Returns the size of the next chunk, after a chunk of `records` records took `seconds`."""
    if seconds > CHUNK_SECONDS:
        return max(FEWEST_RECORDS, min(most, int(records * CHUNK_SECONDS / seconds)))
    return min(CHUNK_RECORDS, most + max(1, most // 4))


@dataclass
class RebuildLane:
    """One lane of the partition: its waiting records, its offset and the live generation's offset."""

    queue: str
    applied: int
    live: int
    records: list[Record] = field(default_factory=list)
    most: int = FEWEST_RECORDS
    skipped: bool = False
    """True if the reader has passed records that the lane may need again."""
    size_bytes: int = 0
    """Size of the waiting records."""

    @property
    def is_behind(self) -> bool:
        """Returns True if the live generation has applied more of the lane."""
        return self.applied < self.live

    def move(self, applied: int) -> None:
        """Moves the lane to this offset and drops the waiting records up to it."""
        self.applied = applied
        done = bisect_right(self.records, applied, key=_offset)
        self.size_bytes -= sum(map(size_bytes, self.records[:done]))
        del self.records[:done]

    def add(self, record: Record) -> None:
        """Adds the lane's next record."""
        self.records.append(record)
        self.size_bytes += size_bytes(record)

    def forget(self) -> None:
        """Drops the waiting records. They must be read again if the lane falls behind."""
        self.skipped = self.skipped or bool(self.records)
        self.records.clear()
        self.size_bytes = 0


def is_own(decoded: Decoded, known: Known | None) -> bool:
    """Returns True if the stored identity belongs to this same record."""
    here = (decoded.topic_id, decoded.partition, decoded.record.offset)
    return known is not None and (known.topic_id, known.partition, known.offset) == here


def judge_record(decoded: Decoded, known: Known | None) -> str:
    """Returns FOLDED if a generation folds a record, else the reason why it passes over the record. Pure.

    REPEATED: a worker applied the event from another record, and the generation has no note that it folded
    the event elsewhere. The generation folds this record only if the log no longer has the other record.
    """
    if known is None:
        return UNKNOWN
    is_taken = known.outcome in TAKEN
    if is_own(decoded, known):
        if is_taken and known.is_noted:
            return Outcome.DUPLICATE
        return FOLDED if is_taken else known.outcome
    if known.data_hash != decoded.data_hash:
        return Outcome.CONFLICT
    return REPEATED if is_taken and not known.is_noted else Outcome.DUPLICATE


def needs_whole(decoded: Decoded, known: Known | None) -> bool:
    """Returns True if a record was read without its value, but a worker may have applied it whole. Pure.

    A worker that read the record without its value identified the record by its offset. A redrive may have
    corrected this identity, or a worker with a higher limit may have read the whole record.
    """
    flaw = decoded.record.flaw
    return flaw is not None and flaw.is_cut and (known is None or known.outcome in TAKEN)


def refusal(compacted: Topic | None) -> Callable[[HandlerRun, Effect], None]:
    """Returns a check that raises for effects that a rebuild must refuse. The checks of types and of
    the fold run before it."""

    def refuse(run: HandlerRun, effect: Effect) -> None:
        if isinstance(effect, Emit | Call):
            raise DeploymentBroken(
                f"{run.entry.name} yielded a {type(effect).__name__} in a rebuild, which must not repeat"
                " this effect"
            )
        if compacted is not None and isinstance(effect, Increment):
            raise DeploymentBroken(
                f"{run.entry.name} yielded an Increment for a record of {compacted.name}, which is compacted:"
                " earlier records may be deleted; start from a checkpoint, or project without Increment"
            )

    return refuse


def _offset(record: Record) -> int:
    return record.offset
