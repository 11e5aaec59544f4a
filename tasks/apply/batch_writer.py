"""Folds events and writes the results, within a transaction that the caller begins and commits."""

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
from sluice.tasks.apply.halving import Halving, count_apart
from sluice.tasks.apply.row_store import AbsentKeyLocks, RowStore
from sluice.tasks.apply.single_events import SingleEvents, may_be_set_aside
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FoldResult, FoldState
from sluice.tasks.fold.plan import Planned

CHECK_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE"  # so that deferred constraints fail before COMMIT

# Limits for the remaining events of a transaction after a lock or a time-out held up one event.
SHORT_LIMITS = "SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '100ms'"

T = TypeVar("T")


class SetAside(Protocol):
    """Stores an event that cannot be applied because of servers or locks, so that its lane continues."""

    def __call__(
        self, session: Session, store: FoldIO, queue: str, planned: Planned, error: Exception
    ) -> EventResult:
        """Writes the event as waiting for a retry, under the queue's lock. Returns the event's result."""


class _TakenBack(Exception):
    """Raised to roll back an attempt that only tests if Postgres refuses it."""


class BatchWriter:
    """Settles events of one queue in one transaction. The caller holds the queue's lock."""

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
        """`snapshot` and `erasures` must be read under the lock. Writes the live generations of `snapshot`.

        `redriving`: the events are letters of one entity. They are applied although their identities are
        known and the entity is parked. The caller updates letters and identities. If `set_aside` is
        None, errors of servers and locks are raised. `limit`: the most events that one transaction settles
        event by event.
        """
        self._session = session
        self._queue = queue
        self._entity = entity
        self._snapshot = snapshot
        self._erasures = erasures
        self._held: dict[str, set[str]] = {}
        """Projection → keys of entities whose events wait for it because of this transaction."""
        self._redriving = redriving
        self._set_aside = set_aside
        self._limit = limit
        self._locks = AbsentKeyLocks()
        self._changed_tables: set[Table] = set()
        # Tables that events wrote, or tried to write, under a key other than the event's key.
        self._other_tables: set[Table] = set()

    def settle(self, events: Sequence[Planned], *, singly: bool, halving: bool = False) -> list[EventResult]:
        """Settles the events, or only the first of them. Writes and returns the results.

        Raises errors of Postgres; with `singly`, only errors that no single event causes. With `halving`,
        events that Postgres accepts together are settled together.
        """
        if singly:
            settled = self._settle_singly(events, Halving(len(events)) if halving else None)
        else:
            settled = self._settle(self._store(), events)
        self._erasures.tables.note(self._entity, self._changed_tables, self._other_tables)
        return settled

    def _settle(self, store: FoldIO, events: Sequence[Planned]) -> list[EventResult]:
        memory = store.load(events)
        # The time to load the rows does not count towards the budget of the handlers.
        until = time.monotonic() + HANDLER_BUDGET_SECONDS
        folded = fold(events, memory, lambda: time.monotonic() >= until)
        store.write_back(self._queue, memory, folded)
        self._changed_tables |= store.changed_tables
        self._other_tables |= memory.other_tables
        self._session.defer(CHECK_CONSTRAINTS)
        self._held = memory.held
        return folded.settled

    def _settle_singly(self, events: Sequence[Planned], halving: Halving | None) -> list[EventResult]:
        """Settles each event in its own savepoint. An event that Postgres refuses becomes a dead letter.

        With `halving`, a savepoint contains several events, until one of them is refused.
        """
        done = SingleEvents(self._limit)
        while len(done.settled) < len(events):
            left = events[len(done.settled) :]
            if self._redriving and done.settled and _blocks(done.settled[-1]):
                done.settled.append(EventResult(left[0], Outcome.WAITING))
                continue
            if done.is_enough():
                break
            count = 1 if halving is None else count_apart(left[: halving.next_count(len(left))])
            if halving is None or count == 1:
                one = self._settle_one(left[0], done)
                done.settled.append(one)
                if halving is not None:
                    halving.note_single(accepted=one.error is None)
            elif not self._settle_part(left[:count], halving, done):
                halving = None
        done.check()
        if done.aside:
            self._session.restore_limits()
        return done.settled

    def _settle_part(self, events: Sequence[Planned], halving: Halving, done: SingleEvents) -> bool:
        """Settles several events in one savepoint. Returns False if they must be settled one by one, because
        the cause may not be an event.
        """
        store = self._store()
        try:
            settled = self._in_savepoint(lambda: self._settle(store, events))
        except Exception as error:
            if needs_new_connection(error):
                raise
            halving.note_refused(len(events))
            return whose_fault(error) is Fault.EVENT
        done.settled += settled
        done.written_tables |= store.written_tables
        halving.note_accepted(len(settled))
        return True

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
        """Settles an event that Postgres refuses for a reason outside of its projections."""
        if isinstance(error, WriteSuppressed):
            done.suppressed.append((error, DeploymentBroken(str(error))))
        else:
            if self._redriving and done.settled and may_be_set_aside(error):
                # The earlier events stay applied. The next transaction raises the error at this event.
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
        """Returns the first projection that causes the error, with its fault; None if no projection does.

        Tries each projection alone and rolls it back. Raises GenerationBroken if the deployment is at fault.
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
        # If further events are held up, they must not use up the time of the other events.
        self._session.command(SHORT_LIMITS)
        return one

    def _bury(self, store: FoldIO, event: Planned, fault: EventFault) -> EventResult:
        memory = store.load([])
        dead = FoldResult()
        dead.bury(event, fault, memory)
        store.write_back(self._queue, memory, dead)
        return dead.settled[0]

    def _with_letter(self, write: Callable[[FoldIO], T]) -> T:
        """Stores one letter with `write`. If Postgres cannot store it whole, leaves out the value."""
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
    """Returns True if the later events of the entity must wait for this event."""
    died = settled.outcome is Outcome.DEAD and settled.planned.parks
    return settled.outcome is Outcome.WAITING or died
