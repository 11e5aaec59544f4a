"""Folds events and writes what they come to, within a transaction that the caller begins and commits."""

import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Protocol, TypeVar

from sqlalchemy import Table

from sluice.db.connection import Session
from sluice.db.errors import (
    DeploymentBroken,
    Fault,
    WriteSuppressed,
    needs_new_connection,
    whose_fault,
)
from sluice.db.projections.generations import ProjectionSnapshot, SyncedGeneration
from sluice.db.records import Outcome
from sluice.tasks.apply.chunks import HANDLER_BUDGET_SECONDS
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.fold_io import FoldIO, LetterNotStored
from sluice.tasks.apply.generation_stops import GenerationBroken
from sluice.tasks.apply.row_store import AbsentKeyLocks, RowStore
from sluice.tasks.apply.single_events import SingleEvents, may_be_set_aside
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FoldResult, FoldState
from sluice.tasks.fold.plan import Planned

CHECK_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE"  # deferred ones too: refused here, not by COMMIT

# In the rest of a pass in which an event was held up: the others wait for less.
SHORT_LIMITS = "SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '100ms'"
USUAL_LIMITS = "SET LOCAL statement_timeout TO DEFAULT; SET LOCAL lock_timeout TO DEFAULT"

T = TypeVar("T")


class SetAside(Protocol):
    """Keeps an event in Postgres that the surroundings keep from being applied, so that its lane goes on."""

    def __call__(
        self, session: Session, store: FoldIO, queue: str, planned: Planned, error: Exception
    ) -> EventResult:
        """Writes the event as one that waits for a retry, under the queue's lock. Returns its result."""


class _TakenBack(Exception):
    """What was tried is rolled back."""


class BatchWriter:
    """Settles events of one queue, whose lock the caller holds. One transaction."""

    def __init__(
        self,
        session: Session,
        *,
        queue: str,
        entity: str,
        snapshot: ProjectionSnapshot,
        erasures: Erasures,
        redriving: bool = False,
        set_aside: SetAside | None = None,
        limit: int | None = None,
    ) -> None:
        """`snapshot`: the generations as read under the lock; the live ones are written here.
        `erasures`: as of the same moment.

        `redriving`: these are letters of one entity, which are applied although they are known and it is
        parked. Letters and identities are then left to the caller, who knows what they were.
        `set_aside` is None: what the surroundings refuse is raised. `limit`: events of a pass event by event.
        """
        self._session = session
        self._queue = queue
        self._entity = entity
        self._snapshot = snapshot
        self._erasures = erasures
        self._held: dict[str, set[str]] = {}
        """Projection → keys whose events wait for it since this transaction."""
        self._redriving = redriving
        self._set_aside = set_aside
        self._limit = limit
        self._locks = AbsentKeyLocks()
        # Tables whose rows changed, and those that events wrote by other keys than theirs, or tried to.
        self._changed_tables: set[Table] = set()
        self._other_tables: set[Table] = set()

    def settle(self, events: Sequence[Planned], *, singly: bool) -> list[EventResult]:
        """Writes what becomes of the events, or of the first of them. Returns their results.

        Raises what Postgres refuses. Event by event it raises only what is no event's fault.
        """
        settled = self._settle_singly(events) if singly else self._settle(self._store(), events)
        self._erasures.tables.note(self._entity, self._changed_tables, self._other_tables)
        return settled

    def _settle(self, store: FoldIO, events: Sequence[Planned]) -> list[EventResult]:
        memory = store.load(events)
        # From here on: how long the rows took to load does not count.
        until = time.monotonic() + HANDLER_BUDGET_SECONDS
        folded = fold(events, memory, lambda: time.monotonic() >= until)
        store.write_back(self._queue, memory, folded)
        self._changed_tables |= store.changed_tables
        self._other_tables |= memory.other_tables
        self._session.defer(CHECK_CONSTRAINTS)
        self._held = memory.held
        return folded.settled

    def _settle_singly(self, events: Sequence[Planned]) -> list[EventResult]:
        """Event by event, each in a savepoint: what Postgres refuses is that event's death."""
        done = SingleEvents(self._limit)
        for event in events:
            if self._redriving and done.settled and _blocks(done.settled[-1]):
                done.settled.append(EventResult(event, Outcome.WAITING))
                continue
            if done.is_enough():
                break
            done.settled.append(self._settle_one(event, done))
        done.check()
        if done.aside:
            self._session.command(USUAL_LIMITS)
        return done.settled

    def _settle_one(self, event: Planned, done: SingleEvents) -> EventResult:
        faults: dict[str, EventFault] = {}
        while True:
            store = self._store(faults)
            try:
                [one] = self._in_savepoint(lambda store=store: self._settle(store, [event]))  # type: ignore[misc]
                done.written_tables |= store.written_tables
                return one
            except LetterNotStored:
                cut = self._store(faults, cut_letters=True)
                return self._in_savepoint(lambda cut=cut: self._settle(cut, [event]))[0]  # type: ignore[misc]
            except Exception as error:
                found = self._find_projection_fault(event, error, faults, done)
                if found is None:
                    return self._settle_refused(event, error, done)
                faults |= found

    def _settle_refused(self, event: Planned, error: Exception, done: SingleEvents) -> EventResult:
        """Settles an event of which Postgres refuses what it is besides its projections."""
        if isinstance(error, WriteSuppressed):
            done.suppressed.append((error, DeploymentBroken(str(error))))
        else:
            if self._redriving and done.settled and may_be_set_aside(error):
                # Those before it are applied. The next transaction begins at it, and raises this.
                return EventResult(event, Outcome.WAITING)
            if self._set_aside is not None and may_be_set_aside(error):
                one = self._put_aside(self._set_aside, event, error)
                done.aside.append((one, error))
                return one
            if whose_fault(error) is not Fault.EVENT:
                raise error
        fault = EventFault.of(error)
        return self._with_letter(lambda store: self._bury(store, event, fault))

    def _find_projection_fault(
        self, event: Planned, error: Exception, known: Container[str], done: SingleEvents
    ) -> dict[str, EventFault] | None:
        """Returns the first projection that is the reason for an error, with its fault; None if none is.

        Each is tried alone, and taken back. Raises GenerationBroken if its table is the deployment's fault.
        """
        if whose_fault(error) is Fault.SURROUNDINGS or needs_new_connection(error):
            return None
        for projection, synced in self._snapshot.fed.items():
            part = [run for run in event.runs if run.into is not None and run.into.name == projection]
            if not part or projection in known:
                continue
            try:
                self._try_projection(Planned(event.decoded, part, parks=event.parks), synced)
            except WriteSuppressed as refused:
                done.suppressed.append((refused, GenerationBroken(synced, refused)))
                return {projection: EventFault.of(refused)}
            except Exception as refused:
                if whose_fault(refused) is Fault.DEPLOYMENT:
                    raise GenerationBroken(synced, refused) from refused
                if whose_fault(refused) is not Fault.EVENT:
                    raise
                return {projection: EventFault.of(refused)}
        return None

    def _try_projection(self, event: Planned, synced: SyncedGeneration) -> None:
        rows = RowStore(self._session, {synced.projection: synced.generation}, self._locks)
        held = {name: set(keys) for name, keys in self._held.items()}
        memory = FoldState(rows.load_row, lambda _key: None, held=held)

        def attempt() -> None:
            memory.rows = rows.load([event])
            fold([event], memory)
            rows.write(memory.rows)
            self._session.command(CHECK_CONSTRAINTS)
            raise _TakenBack

        with suppress(_TakenBack):
            self._in_savepoint(attempt)

    def _put_aside(self, set_aside: SetAside, event: Planned, error: Exception) -> EventResult:
        one = self._with_letter(lambda store: set_aside(self._session, store, self._queue, event, error))
        # Further events that are held up must not use up the time of those that are not.
        self._session.command(SHORT_LIMITS)
        return one

    def _bury(self, store: FoldIO, event: Planned, fault: EventFault) -> EventResult:
        memory = store.load([])
        dead = FoldResult()
        dead.bury(event, fault, memory)
        store.write_back(self._queue, memory, dead)
        return dead.settled[0]

    def _with_letter(self, write: Callable[[FoldIO], T]) -> T:
        """Runs what stores one letter; again with the letter cut, if Postgres does not take it whole."""
        try:
            return self._in_savepoint(lambda: write(self._store()))
        except LetterNotStored:
            return self._in_savepoint(lambda: write(self._store(cut_letters=True)))

    def _in_savepoint(self, action: Callable[[], T]) -> T:
        held, waiting = dict(self._locks.held), self._held
        try:
            with self._session.savepoint():
                return action()
        except Exception:
            self._locks.held, self._held = held, waiting
            raise

    def _store(
        self, faults: Mapping[str, EventFault] = MappingProxyType({}), *, cut_letters: bool = False
    ) -> FoldIO:
        return FoldIO(
            self._session,
            self._entity,
            self._snapshot,
            self._redriving,
            erasures=self._erasures,
            held=self._held,
            faults=faults,
            locks=self._locks,
            cut_letters=cut_letters,
        )


def _blocks(settled: EventResult) -> bool:
    """Whether those behind it in its entity wait."""
    died = settled.outcome is Outcome.DEAD and settled.planned.parks
    return settled.outcome is Outcome.WAITING or died
