"""Folds events and writes what they come to, within a transaction that somebody else began and commits."""

from collections.abc import Sequence

from db.errors import QUERY_CANCELED, ErrorKind, classify, sqlstate
from db.session import Session
from tasks.fold import fold
from tasks.folded import Folded, Outcome, Settled
from tasks.handlers import Registry
from tasks.plan import Planned
from tasks.store import Store

CHECK_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE"  # deferred ones too: refused here, not by COMMIT


class Settler:
    """Settles events of one queue, whose lock the caller holds."""

    def __init__(self, session: Session, registry: Registry) -> None:
        self._session = session
        self._registry = registry

    def settle(
        self, queue: str, entity: str, events: Sequence[Planned], *, singly: bool, redriving: bool = False
    ) -> list[Settled]:
        """What became of the events, written. Raises what Postgres refuses, unless they go singly.

        `redriving`: these are letters of one entity, which are applied although they are known and it is
        parked. Letters and identities are then left to the caller, who knows what they were.
        """
        if singly:
            return self._settle_singly(queue, entity, events, redriving)
        return self._settle(queue, entity, events, redriving)

    def _settle(self, queue: str, entity: str, events: Sequence[Planned], redriving: bool) -> list[Settled]:
        store = Store(self._session, self._registry, entity, redriving)
        memory = store.load(events)
        folded = fold(events, memory)
        store.write_back(queue, memory, folded)
        self._session.defer(CHECK_CONSTRAINTS)
        return folded.settled

    def _settle_singly(
        self, queue: str, entity: str, events: Sequence[Planned], redriving: bool
    ) -> list[Settled]:
        """Event by event, each in a savepoint: what Postgres refuses is that event's death."""
        settled: list[Settled] = []
        for event in events:
            if redriving and settled and _blocks(settled[-1]):
                settled.append(Settled(event, Outcome.WAITING))
                continue
            self._session.defer("SAVEPOINT event; SET CONSTRAINTS ALL DEFERRED")
            try:
                one = self._settle(queue, entity, [event], redriving)
                self._session.command("RELEASE SAVEPOINT event")
            except Exception as error:
                if classify(error) is not ErrorKind.REJECTED and sqlstate(error) != QUERY_CANCELED:
                    raise
                self._session.command("ROLLBACK TO SAVEPOINT event; RELEASE SAVEPOINT event")
                one = self._bury(queue, entity, event, error, redriving)
            settled += one
        return settled

    def _bury(
        self, queue: str, entity: str, event: Planned, error: Exception, redriving: bool
    ) -> list[Settled]:
        store = Store(self._session, self._registry, entity, redriving)
        memory = store.load([])
        dead = Folded()
        dead.bury(event, error, memory)
        store.write_back(queue, memory, dead)
        return dead.settled


def _blocks(settled: Settled) -> bool:
    """Whether those behind it in its entity wait."""
    died = settled.outcome is Outcome.DEAD and settled.planned.parks
    return settled.outcome is Outcome.WAITING or died
