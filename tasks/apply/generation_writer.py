"""Keeps generations in sync: a batch's transaction writes them last, each in a savepoint."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

import structlog

from sluice.db.apply import guard
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken, Fault, needs_new_connection, whose_fault
from sluice.db.projections import generation_lanes, generations
from sluice.db.projections.generation_lanes import FOLDED, NOTHING_APPLIED, GenerationStep
from sluice.db.projections.generation_records import note_identities
from sluice.db.projections.generations import NO_PROJECTIONS, ProjectionSnapshot, SyncedGeneration
from sluice.db.records import GenerationState, Outcome
from sluice.runtime.place import Place
from sluice.tasks.apply.circuit_breaker import SUCCEEDED
from sluice.tasks.apply.fold_io import store_letters
from sluice.tasks.apply.generation_feed import apply_to_generation
from sluice.tasks.apply.generation_repeats import is_displaced, lagging_places
from sluice.tasks.apply.generation_stops import count_failures, end_feeding, reason_of
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold_state import TAKEN, EventResult, ProjectionLetter, Waiting
from sluice.tasks.fold.plan import Planned, part_of
from sluice.tasks.fold.registry import Registry

log = structlog.get_logger("sluice.generation_writer")


class GenerationWriter:
    """Keeps generations in sync within a batch's transaction, under the lock of the queue."""

    def __init__(self, session: Session, registry: Registry) -> None:
        self._session = session
        self._registry = registry
        self._no_failures = ""
        """The failure window of a generation without a stored failure window."""

    def read_projection_snapshot(self, queue: str) -> ProjectionSnapshot:
        """Returns the generations as of this transaction. The caller holds the queue's lock."""
        return (
            generations.read_projection_snapshot(self._session, queue)
            if self._registry.revisions
            else NO_PROJECTIONS
        )

    def sync(
        self,
        snapshot: ProjectionSnapshot,
        queue: str,
        before: Mapping[Place, int],
        after: Mapping[Place, int],
        settled: Sequence[EventResult],
        failure_window: str,
    ) -> None:
        """Counts the failures of the live generations, and writes the other generations that do not lag.

        `before` and `after` are the offsets of the lanes that the batch moved. `failure_window` is the window
        of the queue. Raises errors that end the connection. Any other fault of a generation is not raised: it
        becomes a letter, ends the feeding, or makes the generation lag.
        """
        # For a generation without failures, all recent events of the queue count as successes.
        self._no_failures = SUCCEEDED * len(failure_window)
        for synced in snapshot.fed.values():
            reason = self._count_failures(synced, queue, settled)
            if reason is not None:
                place = (synced.projection, synced.generation)
                end_feeding(self._session, synced, queue, reason)
                generation_lanes.keep_places(self._session, *place, queue, after)
        if not snapshot.synced:
            return
        lanes = generation_lanes.read_synced_lanes(self._session, queue, snapshot.synced)
        for synced in snapshot.synced:
            own = lanes.get((synced.projection, synced.generation), {})
            if synced.state == GenerationState.STOPPED:
                self._keep_places(synced, queue, after, own, before)
            elif synced.takes(self._registry.revisions.get(synced.projection)):
                self._sync_lockstep(synced, queue, own, before, after, settled)

    def _sync_lockstep(
        self,
        synced: SyncedGeneration,
        queue: str,
        own: Mapping[Place, int],
        before: Mapping[Place, int],
        after: Mapping[Place, int],
        settled: Sequence[EventResult],
    ) -> None:
        moved = {
            lane: offset
            for lane, offset in after.items()
            if own.get(lane, NOTHING_APPLIED) >= before.get(lane, NOTHING_APPLIED)
        }
        repeats = [s for s in settled if s.known and _lane(s.planned) in moved]
        held_up = lagging_places(self._session, synced, queue, own, repeats)
        if held_up:
            # Stores rows, because a fed lane without a row would count as not begun, or as still fed.
            self._keep_places(synced, queue, held_up, own, {})
            moved = {lane: offset for lane, offset in moved.items() if lane not in held_up}
        if not moved:
            return
        mine = [s for s in settled if _lane(s.planned) in moved]
        counts: defaultdict[Place, Counter[str]] = defaultdict(Counter)
        for one in mine:
            counts[_lane(one.planned)][_what_became(one)] += 1
        steps = [GenerationStep(*lane, own.get(lane), offset, counts[lane]) for lane, offset in moved.items()]
        if not self._sync_safely(synced, queue, steps, mine, may_lag=True):
            # Stores that nothing was applied in lanes without a row, even if the feeding has just ended.
            self._keep_places(synced, queue, moved, own, {})

    def _keep_places(
        self,
        synced: SyncedGeneration,
        queue: str,
        moved: Iterable[Place],
        own: Mapping[Place, int],
        fed: Mapping[Place, int],
    ) -> None:
        """Stores the offsets up to which lanes without a row were fed."""
        places = {lane: fed.get(lane, NOTHING_APPLIED) for lane in moved if lane not in own}
        generation_lanes.keep_places(self._session, synced.projection, synced.generation, queue, places)

    def sync_redriven(
        self, snapshot: ProjectionSnapshot, queue: str, redriven: Sequence[tuple[EventResult, str]]
    ) -> None:
        """Writes redriven events to every generation that had passed them over.

        Other generations read the events later and find them applied. Each event is given with the outcome
        that it had before. Raises NotThisRevision if this code must not write a generation
        that is kept in sync. Raises transient errors too, because no process reads these records again.
        """
        taken = [(one, was) for one, was in redriven if one.outcome in TAKEN and not one.known]
        places = sorted({_lane(one.planned) for one, _ in taken})
        if not places or not snapshot.synced:
            return
        topic_ids = guard.read_lanes(self._session, queue).topic_ids
        displaced = {topic for topic, _ in places if is_displaced(self._session, topic)}
        # If the topic was accepted after the event, the log has the event at another offset or not at all.
        elsewhere = {
            one.planned.decoded.identity
            for one, _ in taken
            if one.planned.decoded.topic in displaced
            or one.planned.decoded.topic_id != topic_ids.get(one.planned.decoded.topic)
        }
        for synced in snapshot.synced:
            self._sync_late(synced, snapshot, queue, places, taken, elsewhere)

    def _sync_late(
        self,
        synced: SyncedGeneration,
        snapshot: ProjectionSnapshot,
        queue: str,
        places: Sequence[Place],
        taken: Sequence[tuple[EventResult, str]],
        elsewhere: Collection[UUID],
    ) -> None:
        place = (synced.projection, synced.generation)
        if snapshot.live[synced.projection] == synced.generation:
            # A lane without a row was fed until now.
            generation_lanes.keep_live_places(self._session, *place, queue)
        # The lane is locked before its row is read, because a rebuild may be passing over these records.
        lanes = generation_lanes.lock_lanes(self._session, *place, queue, places)
        passed = [
            (s, was)
            for s, was in taken
            if s.planned.decoded.identity in elsewhere or _offset(s.planned) <= lanes[_lane(s.planned)]
        ]
        if not passed:
            return
        # The log may hold the redriven events again at a later offset.
        note_identities(self._session, *place, [one.planned.decoded.identity for one, _ in passed])
        if synced.state == GenerationState.STOPPED:
            late = [_waiting(one, synced.projection) for one, _ in passed if _is_of(one, synced.projection)]
            store_letters(self._session, synced, _entity(queue), late, cut=False)
            return
        revision = self._registry.revisions.get(synced.projection)
        if not synced.takes(revision):
            raise NotThisRevision(synced, revision)
        counts: defaultdict[Place, Counter[str]] = defaultdict(Counter)
        for one, was in passed:
            counts[_lane(one.planned)].update({FOLDED: 1, was: -1})
        steps = [GenerationStep(*lane, lanes[lane], lanes[lane], counts[lane]) for lane in counts]
        self._sync_safely(synced, queue, steps, [one for one, _ in passed], may_lag=False)

    def _sync_safely(
        self,
        synced: SyncedGeneration,
        queue: str,
        steps: Sequence[GenerationStep],
        settled: Sequence[EventResult],
        *,
        may_lag: bool,
    ) -> bool:
        """Writes one generation in a savepoint. Returns True if it was written or is now `failed`."""
        error = self._try_sync(synced, queue, steps, settled, singly=False)
        if error is not None and whose_fault(error) is Fault.EVENT:
            error = self._try_sync(synced, queue, steps, settled, singly=True)
        if error is None:
            return True
        if whose_fault(error) is Fault.SURROUNDINGS:
            if not may_lag:
                raise error
            log.info("generation lags", table=synced.table, queue=queue, error=str(error)[:200])
            return False
        end_feeding(self._session, synced, queue, reason_of(error))
        return not synced.has_been_live

    def _try_sync(
        self,
        synced: SyncedGeneration,
        queue: str,
        steps: Sequence[GenerationStep],
        settled: Sequence[EventResult],
        *,
        singly: bool,
    ) -> Exception | None:
        try:
            with self._session.savepoint():
                self._sync(synced, queue, steps, settled, singly=singly)
        except Exception as error:
            if needs_new_connection(error):
                raise
            return error
        return None

    def _sync(
        self,
        synced: SyncedGeneration,
        queue: str,
        steps: Sequence[GenerationStep],
        settled: Sequence[EventResult],
        *,
        singly: bool,
    ) -> None:
        table = self._registry.projection_tables[synced.projection]
        taken = [part_of(s.planned, table) for s in settled if s.is_taken]
        fed = apply_to_generation(self._session, synced, taken, _entity(queue), None, singly)
        generation_lanes.advance_generation(self._session, synced.projection, synced.generation, queue, steps)
        reason = self._count_failures(synced, queue, fed)
        if reason is not None:
            end_feeding(self._session, synced, queue, reason)

    def _count_failures(
        self, synced: SyncedGeneration, queue: str, settled: Sequence[EventResult]
    ) -> str | None:
        return count_failures(
            self._session, synced, queue, self._registry.topics, settled, before=self._no_failures
        )


class NotThisRevision(DeploymentBroken):
    """Raised for a generation that was made by another revision of the code."""

    def __init__(self, synced: SyncedGeneration, revision: int | None) -> None:
        super().__init__(
            f"generation {synced.generation} of {synced.projection} was made by revision {synced.revision},"
            f" this code has revision {revision}; run the command with the code of revision"
            f" {synced.revision}, or after the swap of the projection"
        )


def _what_became(settled: EventResult) -> str:
    if settled.known or settled.outcome is None:
        return Outcome.DUPLICATE
    return FOLDED if settled.outcome in TAKEN else settled.outcome


def _lane(planned: Planned) -> Place:
    return planned.decoded.topic, planned.decoded.partition


def _offset(planned: Planned) -> int:
    return planned.decoded.record.offset


def _entity(queue: str) -> str:
    return queue.rpartition(".")[0]


def _is_of(settled: EventResult, projection: str) -> bool:
    return any(run.into is not None and run.into.name == projection for run in settled.planned.runs)


def _waiting(settled: EventResult, projection: str) -> EventResult:
    fault = EventFault.of(Waiting(f"the feeding of projection {projection} is stopped"))
    letter = ProjectionLetter(projection, Outcome.WAITING, fault, holds=True)
    return EventResult(settled.planned, settled.outcome, letters=(letter,))
