"""Folds one chunk of a lane into a generation: each event that workers applied, exactly once."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Table

from sluice.db.apply.handler_deaths import HandlerDeaths, forget_deaths
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import DedupStart, read_starts
from sluice.db.projections import generation_lanes
from sluice.db.projections.generation_lag import PartitionSnapshot
from sluice.db.projections.generation_lanes import FOLDED, NOTHING_APPLIED
from sluice.db.projections.generation_records import Known, Span, insert_span, note_identities
from sluice.db.records import Outcome
from sluice.kafka_io.record_types import Record
from sluice.kafka_io.whole_record import ReadWhole
from sluice.runtime.place import EventPlace, Place
from sluice.tasks.api import Topic
from sluice.tasks.apply.erasures import Erasures, place_of
from sluice.tasks.apply.generation_repeats import Holding, find_holdings, is_displaced
from sluice.tasks.apply.suspects import find_fault
from sluice.tasks.apply.topic_modes import topic_at
from sluice.tasks.events.decode import Decoded, decode, former_identity
from sluice.tasks.fold.fold_state import FirstSeen
from sluice.tasks.fold.plan import Planned, plan_projection
from sluice.tasks.fold.registry import Registry
from sluice.tasks.rebuild.chunk_feed import decode_whole, feed_chunk, find_erased, pass_over_dropped
from sluice.tasks.rebuild.known_records import load_known
from sluice.tasks.rebuild.rebuild_lane import (
    REPEATED,
    Chunk,
    RebuildLane,
    is_own,
    judge_record,
    needs_whole,
    refusal,
)


class ChunkPlace(NamedTuple):
    """A chunk of a lane, and the offset up to which the partition was read."""

    lane: RebuildLane
    chunk: Chunk
    read_through: int


class ChunkFolder:
    """Folds chunks of one partition, within transactions that the caller begins and commits."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        table: Table,
        place: Place,
        read_whole: ReadWhole,
        deaths: Mapping[EventPlace, HandlerDeaths],
        deaths_queue: str,
    ) -> None:
        """`deaths`: events of this generation in whose handlers a process ended."""
        self._session = session
        self._erasures = Erasures(session)
        self._registry = registry
        self._table = table
        self._place = place
        self._topic = registry.topics[place[0]]
        self._starts: dict[str, Sequence[DedupStart]] = {}
        """Topic id → the offsets from which a mode counts."""
        self._read_whole = read_whole
        self._deaths = deaths
        self._deaths_queue = deaths_queue

    def fold(self, snapshot: PartitionSnapshot, where: ChunkPlace, *, singly: bool) -> Counter[str]:
        """Folds a chunk under the lane's lock. Returns outcome → number of records.

        `singly`: each event has its own savepoint. Used after Postgres refused the chunk as a whole.
        Raises DeploymentBroken.
        """
        synced, (lane, chunk, _) = snapshot.synced, where
        records = lane.records[: chunk.records]
        found, erased = self._load(snapshot, records)
        counts = Counter({Outcome.ERASED.value: len(erased)})
        dropped = pass_over_dropped(self._session, synced, [one for one, _ in found])
        own = {one.identity: one.record.offset for one, known in found if is_own(one, known)}
        taken_again = self._take_repeats(snapshot, where, found, own.keys())
        taken = []
        for one, known in found:
            became = judge_record(one, known)
            if became == REPEATED:
                became = FOLDED if one.record.offset in taken_again else Outcome.DUPLICATE
            if became == FOLDED and one.identity in dropped:
                became = Outcome.DEAD
            counts[became] += 1
            if became == FOLDED:
                taken.append(self._plan(one))
        refuse = refusal(self._topic if snapshot.is_compacted else None)
        feed_chunk(self._session, self._registry.topics, snapshot, lane, taken, refuse, singly=singly)
        span = Span(self._place, lane.queue, lane.applied, chunk.reaches)
        insert_span(self._session, synced.projection, synced.generation, span, list(own.values()))
        self._forget_deaths([*erased, *(one for one, _ in found)])
        return counts

    def _load(
        self, snapshot: PartitionSnapshot, records: Sequence[Record]
    ) -> tuple[list[tuple[Decoded, Known | None]], list[Decoded]]:
        """Returns the records with their stored identities, and the records of erased entities."""
        decoded = [
            decode(
                self._topic_at(snapshot.topic_id, record.offset), snapshot.topic_id, self._place[1], record
            )
            for record in records
        ]
        found = load_known(self._session, snapshot.synced, decoded)
        places = find_erased(self._erasures, snapshot, found)
        erased = [one for one, _ in found if place_of(one) in places] if places else []
        found = [pair for pair in found if place_of(pair[0]) not in places] if places else found
        for number, (one, known) in enumerate(found):
            if needs_whole(one, known):
                topic = self._topic_at(snapshot.topic_id, one.record.offset)
                whole = decode_whole(self._read_whole, topic, one)
                [found[number]] = load_known(self._session, snapshot.synced, [whole])
        return found, erased

    def _topic_at(self, topic_id: str, offset: int) -> Topic:
        """Returns the topic with the mode of the record at an offset.

        The modes are read one time: while a generation is in sync, no command changes the mode of a topic.
        """
        if topic_id not in self._starts:
            self._starts[topic_id] = read_starts(self._session, topic_id, self._place[1])
        return topic_at(self._topic, self._starts[topic_id], offset)

    def _take_repeats(
        self,
        snapshot: PartitionSnapshot,
        where: ChunkPlace,
        found: Sequence[tuple[Decoded, Known | None]],
        own: Collection[UUID],
    ) -> set[int]:
        """Returns the offsets of repeats that are folded because the log no longer has the first record."""
        repeats = [
            (one, FirstSeen(known.data_hash, known.topic_id, known.partition, known.offset))
            for one, known in found
            if known is not None and judge_record(one, known) == REPEATED
        ]
        if not repeats:
            return set()
        synced, lane = snapshot.synced, where.lane
        reached = {self._place: lane.applied}
        others = {
            (self._topic.name, first.partition)
            for _, first in repeats
            if first.topic_id == snapshot.topic_id and first.partition != self._place[1]
        }
        if others:
            # Locked, so that a chunk of another lane cannot take the same event at the same time.
            reached |= generation_lanes.lock_lanes(
                self._session, synced.projection, synced.generation, lane.queue, sorted(others)
            )
        holdings = find_holdings(
            self._session, synced, lane.queue, repeats, lambda p: reached.get(p, NOTHING_APPLIED)
        )
        stand: dict[UUID, int] = {}
        for (one, first), holding in zip(repeats, holdings, strict=True):
            if holding is Holding.AHEAD and first.partition == one.partition:
                is_held = self._is_ahead(one, first.offset, where, own)
                holding = Holding.HELD if is_held else Holding.GONE
            # AHEAD: the other partition is further behind. The record that is read first represents the
            # event.
            if holding is not Holding.HELD:
                stand.setdefault(one.identity, one.record.offset)
        noted = note_identities(self._session, synced.projection, synced.generation, list(stand))
        return {offset for identity, offset in stand.items() if identity in noted}

    def _is_ahead(self, repeat: Decoded, offset: int, where: ChunkPlace, own: Collection[UUID]) -> bool:
        """Returns True if the log still has the event at the later offset at which a worker applied it."""
        lane, chunk, read_through = where
        if offset <= chunk.reaches:
            return repeat.identity in own
        if offset <= read_through:
            ahead = next((one for one in lane.records if one.offset == offset), None)
        elif offset <= lane.live and not self._is_displaced:
            return True
        else:
            ahead = self._read_whole(self._place, offset)
        if ahead is None:
            return False
        there = decode(self._topic_at(repeat.topic_id, offset), repeat.topic_id, repeat.partition, ahead)
        return repeat.identity in (there.identity, former_identity(there))

    @cached_property
    def _is_displaced(self) -> bool:
        return is_displaced(self._session, self._topic.name)

    def _plan(self, one: Decoded) -> Planned:
        deaths = self._deaths.get(self._event_place(one)) if self._deaths else None
        fault = None if deaths is None else find_fault(deaths)
        if fault is not None:
            return Planned(one, error=fault, parks=self._topic.on_failure == "park")
        return plan_projection(self._registry, self._table, one)

    def _forget_deaths(self, passed: Iterable[Decoded]) -> None:
        if self._deaths:
            over = [place for place in map(self._event_place, passed) if place in self._deaths]
            forget_deaths(self._session, self._deaths_queue, over)

    def _event_place(self, one: Decoded) -> EventPlace:
        return EventPlace(one.topic, one.topic_id, one.partition, one.record.offset)
