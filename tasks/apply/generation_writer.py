"""Keeps generations up with live: what the live transaction applied, they apply too, last, in a savepoint."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import structlog

from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken, Fault, needs_new_connection, whose_fault
from sluice.db.projections import generation_deaths, generation_lanes, generations
from sluice.db.projections.generation_deaths import GenerationDeath
from sluice.db.projections.generation_lanes import FOLDED, NOTHING_APPLIED, GenerationStep
from sluice.db.projections.generations import NO_PROJECTIONS, ProjectionSnapshot, SyncedGeneration
from sluice.db.records import Outcome
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.runtime.place import Place
from sluice.tasks.api import Effect
from sluice.tasks.apply.batch_writer import CHECK_CONSTRAINTS
from sluice.tasks.apply.row_store import RowStore
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import TAKEN, EventResult, FoldState
from sluice.tasks.fold.plan import HandlerRun, Planned, part_of
from sluice.tasks.fold.registry import Registry

log = structlog.get_logger("sluice.generation_writer")


class GenerationWriter:
    """Keeps generations in sync within a live transaction, under the lock of its queue."""

    def __init__(self, session: Session, registry: Registry) -> None:
        self._session = session
        self._registry = registry

    def read_projection_snapshot(self) -> ProjectionSnapshot:
        """Which generations count until this transaction ends. To be read under the queue's lock."""
        return (
            generations.read_projection_snapshot(self._session)
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
    ) -> None:
        """Writes the generations that do not lag: those that were as far in a lane as live was.

        `before` and `after` are what live had and has applied of the lanes it moved. Never raises what a
        generation did wrong: that marks the generation as failed, or lets it lag. Raises what ends the
        connection.
        """
        if not snapshot.synced:
            return
        lanes = generation_lanes.read_synced_lanes(self._session, queue)
        for synced in snapshot.synced:
            if not synced.takes(self._registry.revisions.get(synced.projection)):
                continue
            own = lanes.get((synced.projection, synced.generation), {})
            moved = {
                lane: offset
                for lane, offset in after.items()
                if own.get(lane, NOTHING_APPLIED) >= before.get(lane, NOTHING_APPLIED)
            }
            if moved:
                mine = [s for s in settled if _lane(s.planned) in moved]
                counts: defaultdict[Place, Counter[str]] = defaultdict(Counter)
                for one in mine:
                    counts[_lane(one.planned)][_what_became(one)] += 1
                steps = [GenerationStep(*lane, offset, counts[lane]) for lane, offset in moved.items()]
                self._sync_safely(synced, queue, steps, mine, may_lag=True)

    def sync_redriven(
        self, snapshot: ProjectionSnapshot, queue: str, redriven: Sequence[tuple[EventResult, str]]
    ) -> None:
        """Writes events that live applied late to every generation that had passed them over.

        The others come to them by themselves, and find them applied then. Each event comes with the outcome
        it had. Raises NotThisRevision where this code must not write a generation that is kept in sync, and
        what is transient: nobody would come by these records again.
        """
        taken = [(one, was) for one, was in redriven if one.outcome in TAKEN and not one.known]
        places = sorted({_lane(one.planned) for one, _ in taken})
        if not places:
            return
        for synced in snapshot.synced:
            # Locked before it is read: a chunk may be passing over these very records.
            lanes = generation_lanes.lock_lanes(
                self._session, synced.projection, synced.generation, queue, places
            )
            passed = [(s, was) for s, was in taken if _offset(s.planned) <= lanes[_lane(s.planned)]]
            if not passed:
                continue
            revision = self._registry.revisions.get(synced.projection)
            if not synced.takes(revision):
                raise NotThisRevision(synced, revision)
            counts: defaultdict[Place, Counter[str]] = defaultdict(Counter)
            for one, was in passed:
                counts[_lane(one.planned)].update({FOLDED: 1, was: -1})
            steps = [GenerationStep(*place, lanes[place], counts[place]) for place in counts]
            self._sync_safely(synced, queue, steps, [one for one, _ in passed], may_lag=False)

    def _sync_safely(
        self,
        synced: SyncedGeneration,
        queue: str,
        steps: Sequence[GenerationStep],
        settled: Sequence[EventResult],
        *,
        may_lag: bool,
    ) -> None:
        self._session.defer("SAVEPOINT generation; SET CONSTRAINTS ALL DEFERRED")
        try:
            self._sync(synced, queue, steps, settled)
            self._session.command("RELEASE SAVEPOINT generation")
        except Exception as error:
            if needs_new_connection(error):
                raise
            self._session.command("ROLLBACK TO SAVEPOINT generation; RELEASE SAVEPOINT generation")
            if whose_fault(error) is Fault.SURROUNDINGS:
                if not may_lag:
                    raise
                log.info("generation lags", table=synced.table, queue=queue, error=str(error)[:200])
                return
            reason = printable(f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARACTERS]
            generations.fail_generation(self._session, synced.projection, synced.generation, reason)
            log.error("generation failed", table=synced.table, queue=queue, reason=reason)

    def _sync(
        self,
        synced: SyncedGeneration,
        queue: str,
        steps: Sequence[GenerationStep],
        settled: Sequence[EventResult],
    ) -> None:
        table = self._registry.projection_tables[synced.projection]
        taken = [part_of(s.planned, table) for s in settled if s.outcome in TAKEN and not s.known]
        deaths = apply_to_generation(self._session, synced, taken)
        generation_deaths.insert_deaths(self._session, synced.projection, synced.generation, deaths)
        generation_lanes.advance_generation(self._session, synced.projection, synced.generation, queue, steps)


class NotThisRevision(DeploymentBroken):
    """The generation is made by another revision of the code than this one."""

    def __init__(self, synced: SyncedGeneration, revision: int | None) -> None:
        super().__init__(
            f"generation {synced.generation} of {synced.projection} is made by revision {synced.revision},"
            f" this code has {revision}: run it with that code, or after the swap"
        )


def apply_to_generation(
    session: Session,
    synced: SyncedGeneration,
    events: Sequence[Planned],
    refuse: Callable[[HandlerRun, Effect], None] | None = None,
) -> list[GenerationDeath]:
    """Folds events into the rows of one generation, and nothing else; those that die or conflict in it alone.

    Raises DeploymentBroken for an effect that is no write to it, RowsChanged, and what Postgres refuses.
    """
    store = RowStore(session, {synced.projection: synced.generation})
    memory = FoldState(store.load_row, _no_effects, refuse=refuse)
    memory.rows = store.load(events)
    folded = fold(events, memory)
    if folded.emits or folded.calls:
        raise AssertionError(f"{synced.table}: the fold let a projection emit or call")
    store.write(memory.rows)
    session.defer(CHECK_CONSTRAINTS)
    return [_death(one) for one in folded.settled if one.error is not None]


def _no_effects(effect_key: str) -> None:
    raise AssertionError(f"{effect_key}: the fold lets no projection make a call")


def _death(settled: EventResult) -> GenerationDeath:
    decoded, error = settled.planned.decoded, settled.error
    assert error is not None
    return GenerationDeath(
        decoded.topic,
        decoded.partition,
        decoded.record.offset,
        decoded.entity_key,
        error.error_class,
        error.text,
    )


def _what_became(settled: EventResult) -> str:
    if settled.known or settled.outcome is None:
        return Outcome.DUPLICATE
    return FOLDED if settled.outcome in TAKEN else settled.outcome


def _lane(planned: Planned) -> Place:
    return planned.decoded.topic, planned.decoded.partition


def _offset(planned: Planned) -> int:
    return planned.decoded.record.offset
