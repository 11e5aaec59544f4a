"""The delivery guard: judges one slice, so that repeated and lost messages are harmless. Pure."""

from collections.abc import Iterable, Sequence
from enum import Enum

from sluice.db.apply.guard import Lanes
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.events.routing import queue_name, shard_of


class Judgement(Enum):
    """The relation of a slice to the lane's row."""

    REROUTED = "rerouted"  # sent under another epoch; its lane no longer exists
    REPEATED = "repeated"  # all its records were applied before
    NEXT = "next"  # next in line; its first records may already be applied
    UNDECLARED = "undeclared"  # next in line, of a topic that only other processes declare
    GAP = "gap"  # an earlier slice is missing; the bridge will send it again
    MISROUTED = "misrouted"  # from another topic with the same name, or with a record of another queue


def judge(*, epoch: int, prev: int, last: int, current_epoch: int | None, applied_offset: int) -> Judgement:
    """Judges the claim "the lane's records in (prev, last] are exactly these".

    `current_epoch` is the entity type's epoch, read under the queue's lock (None: unknown topic).
    `applied_offset` is the lane's offset in that epoch (-1 without a row). Offsets are compared by order
    only, because compaction and transactions leave holes.
    """
    if epoch != current_epoch:
        return Judgement.REROUTED
    if last <= applied_offset:
        return Judgement.REPEATED
    # This line detects a lost message. No later check would find the missing records.
    if prev > applied_offset:
        return Judgement.GAP
    return Judgement.NEXT


def belongs(keys: Iterable[bytes | None], queue: str, *, shards: int) -> bool:
    """Returns True if every record key belongs to the queue.

    Without this check, records of one entity could be applied concurrently, under the locks of two queues.
    """
    entity = queue.rpartition(".")[0]
    found = {shard_of(key, shards) for key in set(keys)}
    return all(queue_name(entity, shard) == queue for shard in found)


def is_of_queue(piece: Slice, queue: str, lanes: Lanes) -> bool:
    """Returns True if the slice has the topic id of the queue's lanes, and its records are the queue's."""
    if lanes.topic_ids.get(piece.topic) != piece.topic_id:
        return False
    return belongs((record.key for record in piece.records), queue, shards=lanes.shards)


def first_unapplied(offsets: Sequence[int], applied_offset: int) -> int:
    """Returns the index of the first offset above `applied_offset`. `offsets` are sorted."""
    return next((i for i, offset in enumerate(offsets) if offset > applied_offset), len(offsets))
