"""Settles the events of a batch: first optimistically, then by the exact fold if the first try fails."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import psycopg2

from sluice.db.apply.guard import Lanes
from sluice.db.connection import Session
from sluice.db.errors import RowsChanged, WriteSuppressed, needs_new_connection
from sluice.db.projections.generations import ProjectionSnapshot
from sluice.runtime.settings import read_optimistic
from sluice.tasks.apply.batch_writer import BatchWriter, SetAside
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.optimism import Optimism
from sluice.tasks.apply.optimistic_writer import Deviated, OptimisticWriter, Statements
from sluice.tasks.apply.retry_policy import Tries
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.plan import Planned

Way = Literal["optimistic", "exact", "singly", "rolled back"]
"""The way of an attempt. "rolled back": an optimistic attempt that failed; another attempt follows."""

_DEVIATIONS = (Deviated, RowsChanged, WriteSuppressed, psycopg2.Error)


class Settler:
    """Settles events in transactions that the caller begins and commits, under the lock of the queue."""

    def __init__(self, session: Session, set_aside: SetAside) -> None:
        self._session = session
        self._set_aside = set_aside
        self._erasures = Erasures(session)
        self._statements = Statements()
        self._optimism = Optimism(read_optimistic())
        self._way: Way | None = None
        """The way of the attempt that is not committed yet."""
        self._ways: Counter[str] = Counter()

    def settle(
        self,
        queue: str,
        lanes: Lanes,
        snapshot: ProjectionSnapshot,
        events: Sequence[Planned],
        tries: Tries,
    ) -> list[EventResult]:
        """Settles the first of the events, usually all of them. See `BatchWriter.settle`."""
        self._erasures.refresh(lanes.newest_erasure)
        entity = queue.rpartition(".")[0]
        limit = None if lanes.failures is None else lanes.failures.batch_limit
        is_plain = not (
            tries.singly
            or lanes.failures
            or lanes.deaths
            or any(one.has_letters for one in snapshot.fed.values())
        )
        if is_plain and self._optimism.allows(queue):
            self._way = "optimistic"
            optimistic = OptimisticWriter(
                self._session,
                self._statements,
                queue=queue,
                entity=entity,
                snapshot=snapshot,
                erasures=self._erasures,
                has_parked=lanes.has_parked,
            )
            settled = optimistic.settle(events)
            if settled is not None:
                return settled
        is_single = tries.singly or limit is not None
        self._way = "singly" if is_single else "exact"
        writer = BatchWriter(
            self._session,
            queue=queue,
            entity=entity,
            snapshot=snapshot,
            erasures=self._erasures,
            set_aside=self._set_aside,
            limit=limit,
        )
        return writer.settle(events, singly=is_single, halving=tries.halving and limit is None)

    def note_committed(self, queue: str) -> None:
        """Notes that the transaction of the events was committed."""
        if self._way is not None:
            self._ways[self._way] += 1
        self._optimism.note_committed(queue, optimistic=self._way == "optimistic")
        self._way = None

    def note_failed(self, queue: str, error: Exception) -> bool:
        """Returns True if an optimistic attempt failed so that the exact fold should be tried at once."""
        was_optimistic, self._way = self._way == "optimistic", None
        if not was_optimistic or not isinstance(error, _DEVIATIONS) or needs_new_connection(error):
            return False
        self._ways["rolled back"] += 1
        self._optimism.note_deviation(queue)
        return True

    def take_ways(self) -> Counter[str]:
        """Returns the number of attempts since the last call, by the way in which they settled events."""
        taken, self._ways = self._ways, Counter()
        return taken
