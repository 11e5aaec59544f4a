"""What a rebuild holds of a lane, which records it takes next, and which effects it never does. Pure."""

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
CHUNK_RECORDS = 200  # of one transaction: a live one may wait for it
CHUNK_SECONDS = 0.1  # and it should last no longer than this
FEWEST_RECORDS = 1  # the first chunk, too: nothing is known of the handlers yet


class Chunk(NamedTuple):
    """The first so many records that wait; afterwards the lane is at `reaches`. None of it: read on."""

    records: int
    reaches: int
    locked: bool
    """Only under the queue's lock: it would meet live, which must not move meanwhile."""


def next_chunk(
    offsets: Sequence[int],
    *,
    live: int,
    read_through: int,
    most: int = CHUNK_RECORDS,
    is_full: bool = False,
) -> Chunk | None:
    """What to take of a lane that is behind live.

    `offsets` are its records that wait, ascending, `live` is how far live has applied the lane, and every
    record of the partition at or below `read_through` was read. A generation never passes live: what lies
    beyond `live` waits. As long as something is left below it, live cannot be met by accident. `is_full`:
    nothing more is read before something was taken.
    """
    due = bisect_right(offsets, live)
    if due > most:
        return Chunk(most, offsets[most - 1], locked=False)
    if read_through >= live:
        return Chunk(due, live, locked=True)
    return Chunk(due, offsets[due - 1], locked=False) if is_full and due else None


def adapted(most: int, records: int, seconds: float) -> int:
    """How many records the next chunk may have, after one of so many took so long."""
    if seconds > CHUNK_SECONDS:
        return max(FEWEST_RECORDS, min(most, int(records * CHUNK_SECONDS / seconds)))
    return min(CHUNK_RECORDS, most + max(1, most // 4))


@dataclass
class RebuildLane:
    """One lane of the partition: its records that wait, and how far it and live are."""

    queue: str
    applied: int
    live: int
    records: list[Record] = field(default_factory=list)
    most: int = FEWEST_RECORDS
    skipped: bool = False
    """Records were read that it did not need then."""
    size_bytes: int = 0
    """Of the records that wait."""

    @property
    def is_behind(self) -> bool:
        """Whether live has applied more."""
        return self.applied < self.live

    def move(self, applied: int) -> None:
        """So far it was applied: what waits is what lies beyond."""
        self.applied = applied
        done = bisect_right(self.records, applied, key=_offset)
        self.size_bytes -= sum(map(size_bytes, self.records[:done]))
        del self.records[:done]

    def add(self, record: Record) -> None:
        """The lane's next record."""
        self.records.append(record)
        self.size_bytes += size_bytes(record)

    def forget(self) -> None:
        """Nothing of it waits; what did must be read again, should the lane fall behind."""
        self.skipped = self.skipped or bool(self.records)
        self.records.clear()
        self.size_bytes = 0


def is_own(decoded: Decoded, known: Known | None) -> bool:
    """Returns True if what is remembered is of this very record."""
    here = (decoded.topic_id, decoded.partition, decoded.record.offset)
    return known is not None and (known.topic_id, known.partition, known.offset) == here


def judge_record(decoded: Decoded, known: Known | None) -> str:
    """Whether a generation folds a record, or why it passes it over: live did not apply it either. Pure.

    REPEATED: live applied the event from another place, and the generation does not hold it as one that it
    read elsewhere. It folds the record if the log no longer has that other one.
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
    """Returns True if a record was read without its value, but live may have applied it whole. Pure.

    Live knew such a record by its place, until it was redriven; or a greater limit let live read it whole.
    """
    flaw = decoded.record.flaw
    return flaw is not None and flaw.is_cut and (known is None or known.outcome in TAKEN)


def refusal(compacted: Topic | None) -> Callable[[HandlerRun, Effect], None]:
    """Raises for what a rebuild must not do, whatever its handlers yield: once more, behind type and fold."""

    def refuse(run: HandlerRun, effect: Effect) -> None:
        if isinstance(effect, Emit | Call):
            raise DeploymentBroken(
                f"{run.entry.name} yielded a {type(effect).__name__} in a rebuild, which repeats nothing"
            )
        if compacted is not None and isinstance(effect, Increment):
            raise DeploymentBroken(
                f"{run.entry.name} yielded an Increment for a record of {compacted.name}, which is compacted:"
                " earlier ones may be gone; start from a checkpoint, or project without Increment"
            )

    return refuse


def _offset(record: Record) -> int:
    return record.offset
