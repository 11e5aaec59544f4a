"""Records, assignments and a queue with lanes, for tests of the decisions of a bridge."""

from collections.abc import Mapping
from types import MappingProxyType

from sluice.bridge.inflight import Inflight
from sluice.bridge.lanes import Lane, Origin
from sluice.bridge.queue_buffer import QueueBuffer
from sluice.bridge.queue_messages import OutgoingBatch, Resend
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place

EMPTY, BUSY = Waiting(0, 0), Waiting(1, 1_000)
NOWHERE = Whereabouts()

PLACE: Place = ("t", 0)
ORIGIN = Origin("t", "id", 0, 1)


def record(offset: int, value: bytes = b"v", key: bytes = b"k") -> Record:
    return Record(offset, 0, key, value, [])


def assignment(watermark: int = 0, epoch: int = 1, shards: int = 1, **applied: int) -> Assignment:
    lanes = {f"e.{name[1:]}": offset for name, offset in applied.items()}
    return Assignment("id", "e", epoch, shards, epoch, watermark, lanes)


class Queue:
    """One queue with lanes of several partitions, controlled by the test."""

    def __init__(self, lanes: int = 1) -> None:
        self.buffer = QueueBuffer("e.0")
        self.lanes = [Lane(Origin("t", "id", n, 1), -1) for n in range(lanes)]
        self.sent = 0

    def add(self, lane: int, offsets: range, now: float = 0.0, value: bytes = b"v") -> None:
        self.lanes[lane].add([record(offset, value) for offset in offsets])
        self.buffer.note_added(self.lanes[lane], now)

    def send(self, now: float) -> OutgoingBatch:
        batch = self.buffer.cut()
        self.buffer.note_sent(batch, now, f"m{self.sent}")
        self.sent += 1
        return batch

    def look(self, now: float, found: Whereabouts = NOWHERE) -> dict[Lane, Resend]:
        """Searches for lost messages as the loop does: searches, reads the progress, and searches again."""
        if not self.buffer.needs_search(now):
            return {}
        resent = self.buffer.resend_lost(now, found)
        self.buffer.note_settled()
        return resent | self.buffer.resend_lost(now, found)

    def apply(self, lane: int, offset: int, now: float) -> dict[Lane, Resend]:
        self.lanes[lane].advance(offset, now)
        self.buffer.note_applied(self.lanes[lane])
        return self.buffer.resend_overtaken(now)


def claims(batch: OutgoingBatch) -> list[tuple[int, int, int]]:
    return [(part.partition, part.prev, part.last) for part in batch.slices]


def holding(assignments: dict[Place, Assignment], max_bytes: int = 10**9, max_span: int = 10**9) -> Inflight:
    inflight = Inflight(max_bytes=max_bytes, max_span=max_span)
    for place, given_assignment in assignments.items():
        inflight.start(place, given_assignment, given_assignment.watermark or 0)
    return inflight


class NoWatch:
    """A watch that never reports ends of logs."""

    ends: Mapping[Place, int] = MappingProxyType({})

    def offer(self, _: object, __: object) -> None:
        pass

    def take(self) -> None:
        return None
