"""Folds events and writes what they come to, within a transaction that somebody else began and commits."""

from collections.abc import Mapping, Sequence

from sluice.db.connection import Session
from sluice.db.errors import QUERY_CANCELED, Fault, sqlstate, whose_fault
from sluice.db.records import Outcome
from sluice.tasks.apply.fold_io import FoldIO
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FoldResult
from sluice.tasks.fold.plan import Planned
from sluice.tasks.fold.registry import Registry

CHECK_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE"  # deferred ones too: refused here, not by COMMIT


class BatchWriter:
    """Settles events of one queue, whose lock the caller holds."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        *,
        queue: str,
        entity: str,
        generations: Mapping[str, int],
        redriving: bool = False,
    ) -> None:
        """`generations`: projection → its live one, as read under the lock.

        `redriving`: these are letters of one entity, which are applied although they are known and it is
        parked. Letters and identities are then left to the caller, who knows what they were.
        """
        self._session = session
        self._registry = registry
        self._queue = queue
        self._entity = entity
        self._generations = generations
        self._redriving = redriving

    def settle(self, events: Sequence[Planned], *, singly: bool) -> list[EventResult]:
        """What became of the events, written. Raises what Postgres refuses, unless they go singly."""
        return self._settle_singly(events) if singly else self._settle(events)

    def _settle(self, events: Sequence[Planned]) -> list[EventResult]:
        store = self._store()
        memory = store.load(events)
        folded = fold(events, memory)
        store.write_back(self._queue, memory, folded)
        self._session.defer(CHECK_CONSTRAINTS)
        return folded.settled

    def _settle_singly(self, events: Sequence[Planned]) -> list[EventResult]:
        """Event by event, each in a savepoint: what Postgres refuses is that event's death."""
        settled: list[EventResult] = []
        for event in events:
            if self._redriving and settled and _blocks(settled[-1]):
                settled.append(EventResult(event, Outcome.WAITING))
                continue
            self._session.defer("SAVEPOINT event; SET CONSTRAINTS ALL DEFERRED")
            try:
                one = self._settle([event])
                self._session.command("RELEASE SAVEPOINT event")
            except Exception as error:
                if whose_fault(error) is not Fault.EVENT and sqlstate(error) != QUERY_CANCELED:
                    raise
                self._session.command("ROLLBACK TO SAVEPOINT event; RELEASE SAVEPOINT event")
                one = self._bury(event, EventFault.of(error))
            settled += one
        return settled

    def _bury(self, event: Planned, fault: EventFault) -> list[EventResult]:
        store = self._store()
        memory = store.load([])
        dead = FoldResult()
        dead.bury(event, fault, memory)
        store.write_back(self._queue, memory, dead)
        return dead.settled

    def _store(self) -> FoldIO:
        return FoldIO(self._session, self._entity, self._generations, self._redriving)


def _blocks(settled: EventResult) -> bool:
    """Whether those behind it in its entity wait."""
    died = settled.outcome is Outcome.DEAD and settled.planned.parks
    return settled.outcome is Outcome.WAITING or died
