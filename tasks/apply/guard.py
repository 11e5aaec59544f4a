"""The delivery guard's judgement of one slice: pure, and the only reason repeats and losses are harmless."""

from collections.abc import Iterable, Sequence
from enum import Enum

from sluice.db.apply.guard import Lanes
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.events.routing import queue_name, shard_of


class Judgement(Enum):
    """What a slice is, seen from the lane's row."""

    REROUTED = "rerouted"  # sent under another epoch: its lane is no more
    REPEATED = "repeated"  # all of it was applied before
    NEXT = "next"  # next in line, perhaps overlapping what was applied
    UNDECLARED = "undeclared"  # next in line, of a topic that this process does not declare: left to others
    GAP = "gap"  # an earlier slice is missing: the bridge will send again
    MISROUTED = "misrouted"  # of another topic of this name, or with a record of another queue


def judge(*, epoch: int, prev: int, last: int, current_epoch: int | None, applied_offset: int) -> Judgement:
    """Judges the claim "the lane's records in (prev, last] are exactly these".

    `current_epoch` is the entity type's as read under the queue's lock (None: unknown topic), and
    `applied_offset` the lane's of that epoch (-1 without a row). Offsets are compared by order only:
    compaction and transactions leave holes.
    """
    if epoch != current_epoch:
        return Judgement.REROUTED
    if last <= applied_offset:
        return Judgement.REPEATED
    # Without this line a lost message is a hole that nobody ever sees.
    if prev > applied_offset:
        return Judgement.GAP
    return Judgement.NEXT


def belongs(keys: Iterable[bytes | None], queue: str, *, shards: int) -> bool:
    """Returns True if every record key is one of the queue's.

    A record in another queue than its key's would be applied beside those of its entity, under another lock.
    """
    entity = queue.rpartition(".")[0]
    return all(queue_name(entity, shard_of(key, shards)) == queue for key in set(keys))


def is_of_queue(piece: Slice, queue: str, lanes: Lanes) -> bool:
    """Returns True if the slice is of the topic that the queue's lanes have, and all its records belong."""
    if lanes.topic_ids.get(piece.topic) != piece.topic_id:
        return False
    return belongs((record.key for record in piece.records), queue, shards=lanes.shards)


def first_unapplied(offsets: Sequence[int], applied_offset: int) -> int:
    """Index of the first offset above `applied_offset`; offsets rise."""
    return next((i for i, offset in enumerate(offsets) if offset > applied_offset), len(offsets))
