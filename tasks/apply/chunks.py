"""Cuts a message into chunks. One transaction applies one chunk."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from sluice.db.apply.guard import Lanes, QueueFailures
from sluice.db.apply.handler_deaths import HandlerDeaths
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import EventPlace, Place
from sluice.tasks.api import Topic
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.apply.guard import first_unapplied
from sluice.tasks.apply.suspects import find_fault
from sluice.tasks.events.decode import Decoded, decode
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.plan import Planned, plan_event
from sluice.tasks.fold.registry import Registry

HANDLER_BUDGET_SECONDS = 1.0
"""After this time in handlers, no further event is begun. Handlers run before the transaction and within it;
each of these two runs has its own budget.
"""

DECODED_AHEAD = 64
"""Events that are decoded before their handlers run. One step for many events is faster than many steps for
each event, because the code of a step stays in the processor's cache.
"""

_MARGIN_SECONDS = 5.0  # for other work of a process between two statements, on a busy machine


def session_settings(handler_seconds: float) -> dict[str, str]:
    """Returns settings of a session whose transactions are idle while handlers run for `handler_seconds`."""
    idle_seconds = handler_seconds + HANDLER_BUDGET_SECONDS + _MARGIN_SECONDS
    return {"idle_in_transaction_session_timeout": f"{round(idle_seconds * 1000)}ms"}


RecordPlace: TypeAlias = tuple[str, int, int]
"""The place of a record: (topic, partition, offset)."""


@dataclass(slots=True)
class Chunk:
    """The next slices of a message. The last slice may be incomplete."""

    slices: list[Slice] = field(default_factory=list)
    is_cut: bool = False
    """True if the message holds more records."""
    first: RecordPlace | None = None
    """The place of the first event that was planned for this chunk; None if no event was planned."""
    events: int = 0
    has_begun: bool = False
    """True if the newest transaction of this chunk held the queue's lock and had events to apply."""
    failures: QueueFailures | None = None
    """The failures of the queue, as that transaction read them."""
    is_alone: bool = False
    """True if the chunk holds only one event, because the handlers of this event may end the process."""


@dataclass(slots=True)
class Claims:
    """The slices of a chunk as judged under the lock: those that are next in line, and the others."""

    next: list[tuple[Slice, list[Planned]]] = field(default_factory=list)
    left: list[Slice] = field(default_factory=list)
    judgements: Counter[str] = field(default_factory=Counter)
    undeclared: set[str] = field(default_factory=set)


class MessageEvents:
    """The slices of a message and their events. Each record is decoded and planned one time."""

    def __init__(
        self,
        registry: Registry,
        slices: Sequence[Slice],
        clock: Callable[[], float] = time.monotonic,
        topics: Mapping[str, Topic] | None = None,
    ) -> None:
        """`topics`: the declared topics with their stored modes; None: as declared."""
        self._registry = registry
        self._topics = registry.topics if topics is None else topics
        self._slices = list(slices)
        self._planned: dict[Place, dict[int, Planned]] = {}
        """Lane → offset → event."""
        self.retry_is_due = False
        """True if an event of the queue was due for a retry when its lanes were read."""
        self._deaths: Mapping[EventPlace, HandlerDeaths] = {}
        self._clock = clock

    @property
    def epochs(self) -> set[tuple[str, int]]:
        """Returns the topics of the slices, with their epochs."""
        return {(piece.topic, piece.epoch) for piece in self._slices}

    def follows(self, lanes: Lanes) -> bool:
        """Returns True if each slice is next in line, so that none of its records is skipped unread."""
        return bool(self._slices) and all(
            piece.epoch == lanes.epoch
            and piece.prev == lanes.applied.get((piece.topic, piece.partition), -1)
            and piece.topic_id == lanes.topic_ids.get(piece.topic)
            for piece in self._slices
        )

    def next_chunk(self, lanes: Lanes) -> Chunk:
        """Returns events that were not applied before, as many as the handlers' budget allows.

        `lanes` may be read without the lock, because an event that they show as applied stays applied.
        """
        until = self._clock() + HANDLER_BUDGET_SECONDS
        chunk = Chunk()
        self.retry_is_due = lanes.retry_is_due
        self._deaths = lanes.deaths
        for piece in self._in_order(lanes):
            applied = lanes.applied.get((piece.topic, piece.partition), -1)
            if piece.epoch == lanes.epoch and piece.last <= applied:
                continue
            # Records of a topic that this code does not declare are not decoded. Under the lock, such a slice
            # is left for another process.
            if piece.topic not in self._registry.topics or piece.epoch != lanes.epoch:
                chunk.slices.append(piece)
                continue
            first = first_unapplied([r.offset for r in piece.records], applied)
            taken = self._take(piece, first, chunk, until)
            chunk.is_cut = taken < len(piece.records)
            if taken > first:
                chunk.slices.append(piece._replace(records=piece.records[:taken]) if chunk.is_cut else piece)
            if chunk.is_cut:
                break
        return chunk

    def events_of(self, piece: Slice, applied: int) -> list[Planned]:
        """Returns the slice's events whose offset is above `applied`."""
        unapplied = piece.records[first_unapplied([r.offset for r in piece.records], applied) :]
        known = self._planned_of(piece)
        # All are planned already, unless a failover moved Postgres back or the entity type was re-routed.
        for decoded in self._decode(piece, [one for one in unapplied if one.offset not in known]):
            known[decoded.record.offset] = self._plan(piece, decoded)
        return [known[record.offset] for record in unapplied]

    def leave(self, pieces: Sequence[Slice]) -> None:
        """Forgets the lanes of slices that cannot be applied now."""
        lanes = {(piece.topic, piece.partition) for piece in pieces}
        self._slices = [piece for piece in self._slices if (piece.topic, piece.partition) not in lanes]

    def _take(self, piece: Slice, first: int, chunk: Chunk, until: float) -> int:
        """Plans events of a slice while the budget lasts. Returns the index of the first unplanned record."""
        known = self._planned_of(piece)
        for start in range(first, len(piece.records), DECODED_AHEAD):
            records = piece.records[start : start + DECODED_AHEAD]
            decoded = iter(self._decode(piece, [one for one in records if one.offset not in known]))
            for number, record in enumerate(records, start):
                is_suspect = bool(self._deaths) and self._is_suspect(piece, record)
                if chunk.first is None:
                    chunk.first = (piece.topic, piece.partition, record.offset)
                elif is_suspect or chunk.is_alone or self._clock() >= until:
                    return number
                if record.offset not in known:
                    known[record.offset] = self._plan(piece, next(decoded))
                chunk.is_alone = is_suspect
                chunk.events += 1
        return len(piece.records)

    def _decode(self, piece: Slice, records: Sequence[Record]) -> list[Decoded]:
        topic, topic_id, partition = self._topics[piece.topic], piece.topic_id, piece.partition
        return [decode(topic, topic_id, partition, record) for record in records]

    def _planned_of(self, piece: Slice) -> dict[int, Planned]:
        return self._planned.setdefault((piece.topic, piece.partition), {})

    def _plan(self, piece: Slice, decoded: Decoded) -> Planned:
        topic = self._topics[piece.topic]
        fault = self._find_fault(piece, decoded.record) if self._deaths else None
        if fault is None:
            return plan_event(self._registry, topic, decoded)
        return Planned(decoded, error=fault, parks=topic.on_failure == "park")

    def _in_order(self, lanes: Lanes) -> list[Slice]:
        """Returns the slices. The slices of a lane whose next event may end the process are the last ones."""
        if not self._deaths:
            return self._slices
        late = set()
        for piece in self._slices:
            lane = (piece.topic, piece.partition)
            first = first_unapplied([r.offset for r in piece.records], lanes.applied.get(lane, -1))
            if any(self._is_suspect(piece, record) for record in piece.records[first : first + 1]):
                late.add(lane)
        return sorted(self._slices, key=lambda piece: (piece.topic, piece.partition) in late)

    def _is_suspect(self, piece: Slice, record: Record) -> bool:
        """Returns True if a process ended in the handlers of this event, but the event may run again."""
        return self._deaths_of(piece, record) is not None and self._find_fault(piece, record) is None

    def _find_fault(self, piece: Slice, record: Record) -> EventFault | None:
        deaths = self._deaths_of(piece, record)
        return None if deaths is None else find_fault(deaths)

    def _deaths_of(self, piece: Slice, record: Record) -> HandlerDeaths | None:
        return self._deaths.get(EventPlace(piece.topic, piece.topic_id, piece.partition, record.offset))


def reached(claims: Sequence[tuple[Slice, Sequence[Planned]]], settled: int) -> dict[Place, int]:
    """Returns lane → the offset that the lane reaches with the first `settled` events of the slices."""
    offsets: dict[Place, int] = {}
    for piece, events in claims:
        if settled <= 0:
            break
        whole = settled >= len(events)
        last = piece.last if whole else events[settled - 1].decoded.record.offset
        offsets[piece.topic, piece.partition] = last
        settled -= len(events)
    return offsets
