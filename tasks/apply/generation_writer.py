"""Keeps generations up with live: what the live transaction applied, they apply too, last, in a savepoint."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import structlog

from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken, ErrorKind, RowsChanged, classify, needs_new_connection
from sluice.db.projections import generation_deaths, generation_lanes, generations
from sluice.db.projections.generation_deaths import GenerationDeath
from sluice.db.projections.generation_lanes import FOLDED, NOTHING_APPLIED, GenerationStep
from sluice.db.projections.generations import NO_PROJECTIONS, Fed, Standing
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.runtime.place import Place
from sluice.tasks.api import Effect
from sluice.tasks.apply.batch_writer import CHECK_CONSTRAINTS
from sluice.tasks.apply.row_store import RowStore
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import TAKEN, Memory, Settled
from sluice.tasks.fold.plan import HandlerRun, Planned, part_of
from sluice.tasks.fold.registry import Registry

log = structlog.get_logger("sluice.feeding")


class Feeder:
    """Feeds generations over the session of a live transaction, under the lock of its queue."""

    def __init__(self, session: Session, registry: Registry) -> None:
        self._session = session
        self._registry = registry

    def read_standing(self) -> Standing:
        """Which generations count until this transaction ends. To be read under the queue's lock."""
        return generations.read_standing(self._session) if self._registry.revisions else NO_PROJECTIONS

    def feed(
        self,
        standing: Standing,
        queue: str,
        before: Mapping[Place, int],
        after: Mapping[Place, int],
        settled: Sequence[Settled],
    ) -> None:
        """Feeds those in lockstep: as far as live was before this transaction, in a lane.

        `before` and `after` are what live had and has applied of the lanes it moved. Never raises what a
        generation did wrong: that marks the generation as failed, or lets it lag. Raises what ends the
        connection.
        """
        if not standing.fed:
            return
        lanes = generation_lanes.read_fed_lanes(self._session, queue)
        for fed in standing.fed:
            if not fed.takes(self._registry.revisions.get(fed.projection)):
                continue
            own = lanes.get((fed.projection, fed.generation), {})
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
                self._feed_safely(fed, queue, steps, mine, may_lag=True)

    def feed_redriven(self, standing: Standing, queue: str, redriven: Sequence[tuple[Settled, str]]) -> None:
        """Feeds events that live applied late to every generation that had passed them over.

        The others come to them by themselves, and find them applied then. Each event comes with the outcome
        it had. Raises NotThisRevision where this code must not write a generation that has to be fed, and
        what is transient: nobody would come by these records again.
        """
        taken = [(one, was) for one, was in redriven if one.outcome in TAKEN and not one.known]
        places = sorted({_lane(one.planned) for one, _ in taken})
        if not places:
            return
        for fed in standing.fed:
            # Locked before it is read: a chunk may be passing over these very records.
            lanes = generation_lanes.lock_lanes(self._session, fed.projection, fed.generation, queue, places)
            passed = [(s, was) for s, was in taken if _offset(s.planned) <= lanes[_lane(s.planned)]]
            if not passed:
                continue
            revision = self._registry.revisions.get(fed.projection)
            if not fed.takes(revision):
                raise NotThisRevision(fed, revision)
            counts: defaultdict[Place, Counter[str]] = defaultdict(Counter)
            for one, was in passed:
                counts[_lane(one.planned)].update({FOLDED: 1, was: -1})
            steps = [GenerationStep(*place, lanes[place], counts[place]) for place in counts]
            self._feed_safely(fed, queue, steps, [one for one, _ in passed], may_lag=False)

    def _feed_safely(
        self,
        fed: Fed,
        queue: str,
        steps: Sequence[GenerationStep],
        settled: Sequence[Settled],
        *,
        may_lag: bool,
    ) -> None:
        self._session.defer("SAVEPOINT generation; SET CONSTRAINTS ALL DEFERRED")
        try:
            self._feed(fed, queue, steps, settled)
            self._session.command("RELEASE SAVEPOINT generation")
        except Exception as error:
            if needs_new_connection(error):
                raise
            self._session.command("ROLLBACK TO SAVEPOINT generation; RELEASE SAVEPOINT generation")
            if isinstance(error, RowsChanged) or classify(error) is ErrorKind.TRANSIENT:
                if not may_lag:
                    raise
                log.info("generation lags", table=fed.table, queue=queue, error=str(error)[:200])
                return
            reason = printable(f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARACTERS]
            generations.fail_generation(self._session, fed.projection, fed.generation, reason)
            log.error("generation failed", table=fed.table, queue=queue, reason=reason)

    def _feed(
        self, fed: Fed, queue: str, steps: Sequence[GenerationStep], settled: Sequence[Settled]
    ) -> None:
        table = self._registry.projection_tables[fed.projection]
        taken = [part_of(s.planned, table) for s in settled if s.outcome in TAKEN and not s.known]
        deaths = apply_to_generation(self._session, fed, taken)
        generation_deaths.insert_deaths(self._session, fed.projection, fed.generation, deaths)
        generation_lanes.advance_generation(self._session, fed.projection, fed.generation, queue, steps)


class NotThisRevision(DeploymentBroken):
    """The generation is made by another revision of the code than this one."""

    def __init__(self, fed: Fed, revision: int | None) -> None:
        super().__init__(
            f"generation {fed.generation} of {fed.projection} is made by revision {fed.revision},"
            f" this code has {revision}: run it with that code, or after the swap"
        )


def apply_to_generation(
    session: Session,
    fed: Fed,
    events: Sequence[Planned],
    refuse: Callable[[HandlerRun, Effect], None] | None = None,
) -> list[GenerationDeath]:
    """Folds events into the rows of one generation, and nothing else; those that die or conflict in it alone.

    Raises DeploymentBroken for an effect that is no write to it, RowsChanged, and what Postgres refuses.
    """
    store = RowStore(session, {fed.projection: fed.generation})
    memory = Memory(store.load_row, _no_effects, frozenset(), refuse=refuse)
    memory.rows = store.load(events)
    folded = fold(events, memory)
    if folded.emits or folded.calls:
        raise AssertionError(f"{fed.table}: the fold let a projection emit or call")
    store.write(memory.rows)
    session.defer(CHECK_CONSTRAINTS)
    return [_death(one) for one in folded.settled if one.error is not None]


def _no_effects(effect_key: str) -> None:
    raise AssertionError(f"{effect_key}: the fold lets no projection make a call")


def _death(settled: Settled) -> GenerationDeath:
    decoded, error = settled.planned.decoded, settled.error
    return GenerationDeath(
        decoded.topic,
        decoded.partition,
        decoded.record.offset,
        decoded.entity_key,
        type(error).__name__,
        printable(str(error))[:MAX_ERROR_CHARACTERS],
    )


def _what_became(settled: Settled) -> str:
    if settled.known or settled.outcome is None:
        return "duplicate"
    return FOLDED if settled.outcome in TAKEN else settled.outcome.value


def _lane(planned: Planned) -> Place:
    return planned.decoded.topic, planned.decoded.partition


def _offset(planned: Planned) -> int:
    return planned.decoded.record.offset
