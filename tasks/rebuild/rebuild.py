"""Rebuilds one partition of a generation from the log, in chunks, until it has caught up."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial

import structlog

from sluice.db.apply import guard
from sluice.db.apply.handler_deaths import read_deaths
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken, Fault, needs_new_connection, whose_fault
from sluice.db.projections import generation_lag, generation_lanes, generation_pace
from sluice.db.projections.generation_deaths import deaths_queue
from sluice.db.projections.generation_lag import PartitionSnapshot
from sluice.db.projections.generation_lanes import NOTHING_APPLIED, GenerationStep
from sluice.kafka_io.partition_reader import LogIncomplete
from sluice.kafka_io.record_types import size_bytes
from sluice.kafka_io.whole_record import ReadWhole, RecordNotRead, read_whole_record
from sluice.runtime.fault_points import faults
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.place import Place
from sluice.tasks.apply.retry import retry
from sluice.tasks.apply.retry_policy import Step, Tries
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.tasks.fold.registry import Registry
from sluice.tasks.rebuild.chunk_folder import ChunkFolder, ChunkPlace
from sluice.tasks.rebuild.generation_ends import note_failure, note_met
from sluice.tasks.rebuild.rebuild_lane import (
    FEWEST_RECORDS,
    Chunk,
    RebuildLane,
    adapted,
    next_chunk,
)
from sluice.tasks.rebuild.rebuild_reader import RebuildReader

log = structlog.get_logger("sluice.rebuild")

TURN_SECONDS = 20.0  # then the worker takes another partition
READ_SECONDS = 0.2
BUFFERED_BYTES = 32 * 1024 * 1024  # for all lanes of the partition; the last read may exceed this limit
FILLED_STATES = ("building", "ready", "retired", "resuming")


class Rebuilder:
    """Rebuilds over one session. `run` is idempotent, may run concurrently, and is safe to kill."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        access: KafkaAccess,
        *,
        max_record_bytes: int,
        watched: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """A record above `max_record_bytes` is read whole, and alone, if a worker applied the whole record.

        `watched` makes the context of a turn, which limits the time of handlers and notes them under a name.
        """
        self._watched = watched
        self._session = session
        self._registry = registry
        self._access = access
        self._max_record_bytes = max_record_bytes

    def run(self, projection: str, generation: int, place: Place, *, seconds: float = TURN_SECONDS) -> bool:
        """Runs one turn. Returns True if all lanes of the partition caught up.

        Marks a generation that cannot continue as failed or stopped. Does nothing if another process rebuilds
        the partition, or this code has another revision.
        """
        what = f"{projection} {generation} {place[0]}"
        if not generation_lag.try_rebuild(self._session, what, place[1]):
            return False
        try:
            access, limit = self._access, self._max_record_bytes
            read_whole = partial(read_whole_record, access)
            turn = _Turn(self._session, self._registry, projection, generation, place, read_whole)
            with self._watched(turn.deaths_queue):
                return turn.run(
                    lambda offset: RebuildReader(
                        self._session, access, place, offset, max_record_bytes=limit
                    ),
                    seconds,
                )
        finally:
            generation_lag.end_rebuild(self._session, what, place[1])


class _Turn:
    """One turn on one partition."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        projection: str,
        generation: int,
        place: Place,
        read_whole: ReadWhole,
    ) -> None:
        self._read_whole = read_whole
        self._session = session
        self._registry = registry
        self._projection = projection
        self._generation = generation
        self._place = place
        self._table = registry.projection_tables.get(projection)
        self._lanes: dict[str, RebuildLane] = {}
        self._reader: RebuildReader | None = None
        self.deaths_queue = deaths_queue(projection, generation, place)

    @cached_property
    def _folder(self) -> ChunkFolder:
        assert self._table is not None
        deaths = read_deaths(self._session, self.deaths_queue)
        return ChunkFolder(
            self._session,
            self._registry,
            self._table,
            self._place,
            self._read_whole,
            deaths,
            self.deaths_queue,
        )

    def run(self, open_reader: Callable[[int], RebuildReader], seconds: float) -> bool:
        """Runs until all lanes caught up (returns True), the time is over, or the rebuild is stopped."""
        ends_at = time.monotonic() + seconds
        snapshot: PartitionSnapshot | None = None
        try:
            while time.monotonic() < ends_at:
                snapshot = self._look()
                if snapshot is None:
                    return False
                behind = [lane for lane in self._lanes.values() if lane.is_behind]
                if not behind:
                    note_met(self._session, snapshot.synced)
                    return True
                if self._reader is None:
                    first = min(lane.applied for lane in behind) + 1
                    self._reader = open_reader(first)
                    for lane in self._lanes.values():
                        # A lane that does not lag may be behind the reader, if the worker is slow there.
                        lane.skipped = lane.applied + 1 < first
                self._read(snapshot, behind)
                for lane in behind:
                    self._take(snapshot, lane, ends_at)
            return False
        except (LogIncomplete, DeploymentBroken) as error:
            if snapshot is not None:
                note_failure(self._session, snapshot.synced, error)
            return False
        finally:
            self._close_reader()

    def _look(self) -> PartitionSnapshot | None:
        """Reads the state of the partition. Returns None if this process must not continue."""
        found = generation_lag.read_partition(self._session, self._projection, self._generation, *self._place)
        mine = self._registry.revisions.get(self._projection)
        if found is None or found.paused or found.synced.state not in FILLED_STATES:
            return None
        if self._table is None or not found.synced.takes(mine) or self._place[0] not in self._registry.topics:
            log.info("rebuild left to workers of its revision", table=found.synced.table, revision=mine)
            return None
        for queue, (live, applied) in found.lanes.items():
            if queue not in self._lanes:
                # An open reader may already have passed records of this lane.
                self._lanes[queue] = RebuildLane(queue, applied, live, skipped=True)
            lane = self._lanes[queue]
            lane.live = live
            if applied > lane.applied:
                lane.move(applied)
            if not lane.is_behind:
                # The worker writes the lane's later records into the generation. They must not fill the
                # buffer.
                lane.forget()
        if self._reader is not None and any(one.skipped and one.is_behind for one in self._lanes.values()):
            # A lane fell out of sync, because of code of another revision or because a lock was not free.
            self._close_reader()
        return found

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        for lane in self._lanes.values():
            lane.forget()
            lane.skipped = False

    def _read(self, snapshot: PartitionSnapshot, behind: Sequence[RebuildLane]) -> None:
        assert self._reader is not None
        wanted = max(lane.live for lane in behind)
        buffered = self._buffered()
        while self._reader.read_through < wanted and buffered < BUFFERED_BYTES:
            records = self._reader.read(READ_SECONDS)
            if not records:
                return
            for record in records:
                queue = queue_name(snapshot.entity, shard_of(record.key, snapshot.shards))
                lane = self._lanes.setdefault(queue, RebuildLane(queue, NOTHING_APPLIED, NOTHING_APPLIED))
                if not lane.is_behind:
                    # The lane does not lag, because the worker's transaction keeps the lane in sync.
                    lane.skipped = True
                elif record.offset > lane.applied:
                    lane.add(record)
                    buffered += size_bytes(record)

    def _take(self, snapshot: PartitionSnapshot, lane: RebuildLane, ends_at: float) -> None:
        """Applies chunks of one lane, as long as enough records were read."""
        while lane.is_behind and time.monotonic() < ends_at:
            chunk = self._next(lane)
            if chunk is None:
                return
            taken = self._apply_chunk(snapshot, lane, chunk)
            if snapshot.is_paced:
                pause = generation_pace.take_pace(self._session, self._projection, self._generation, taken)
                time.sleep(max(0.0, min(pause, ends_at - time.monotonic())))

    def _apply_chunk(self, snapshot: PartitionSnapshot, lane: RebuildLane, chunk: Chunk) -> int:
        """Applies one chunk. Retries if that may help. Returns the number of applied records."""
        tries = Tries()

        def attempt() -> int:
            began = time.monotonic()
            taken = self._apply(snapshot, lane, chunk, singly=tries.singly)
            lane.most = adapted(lane.most, taken, time.monotonic() - began)
            return taken

        def pause_after(error: Exception, elapsed_seconds: float, jitter: float) -> float | None:
            pause_seconds = tries.pause_after(error, elapsed_seconds, jitter)
            held_up = tries.step is Step.SINGLY and whose_fault(error) is not Fault.EVENT
            # Without the connection, the lock that excludes other turns is lost.
            is_left = needs_new_connection(error) or isinstance(error, RecordNotRead)
            return None if is_left or held_up else pause_seconds

        try:
            return retry(self._session, attempt, pause_after, what=f"{self._projection} {lane.queue}")
        except RecordNotRead as error:
            log.warning("rebuild waits for Kafka", reason=str(error))
            return 0
        except Exception as error:
            if needs_new_connection(error) or tries.step is Step.GIVE_UP:
                raise
            if tries.step is Step.HALT:
                raise DeploymentBroken(f"{type(error).__name__}: {error}") from error
            # A smaller chunk is faster and touches fewer rows that another writer changes.
            lane.most = FEWEST_RECORDS
            return 0

    def _next(self, lane: RebuildLane) -> Chunk | None:
        assert self._reader is not None
        offsets = [record.offset for record in lane.records]
        return next_chunk(
            offsets,
            live=lane.live,
            read_through=self._reader.read_through,
            most=lane.most,
            is_full=self._buffered() >= BUFFERED_BYTES,
        )

    def _buffered(self) -> int:
        return sum(lane.size_bytes for lane in self._lanes.values())

    def _apply(self, snapshot: PartitionSnapshot, lane: RebuildLane, chunk: Chunk, *, singly: bool) -> int:
        """Applies one chunk in one transaction. Returns the number of applied records."""
        with self._session.transaction():
            if chunk.locked and not guard.lock_queue(self._session, lane.queue):
                raise DeploymentBroken(f"queue {lane.queue} has no row: run `sluice init`")
            held = generation_lanes.lock_lanes(
                self._session, self._projection, self._generation, lane.queue, [self._place]
            )
            if held.get(self._place) != lane.applied:
                # Another process moved the lane, or the generation was dropped. The next `_look` decides.
                lane.move(held.get(self._place, lane.applied))
                lane.live = NOTHING_APPLIED
                return 0
            if chunk.locked:
                lanes = guard.read_lanes(self._session, lane.queue)
                if lanes.epoch != snapshot.epoch:
                    lane.live = NOTHING_APPLIED
                    return 0
                lane.live = lanes.applied.get(self._place, NOTHING_APPLIED)
                again = self._next(lane)
                if again is None:
                    return 0
                chunk = again
            assert self._reader is not None
            where = ChunkPlace(lane, chunk, self._reader.read_through)
            counts = self._folder.fold(snapshot, where, singly=singly)
            step = GenerationStep(*self._place, lane.applied, chunk.reaches, counts)
            generation_lanes.advance_generation(
                self._session, self._projection, self._generation, lane.queue, [step], catches_up=True
            )
            faults.reach("rebuild.before_commit")
        faults.reach("rebuild.committed")
        lane.move(chunk.reaches)
        return chunk.records
