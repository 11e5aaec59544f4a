"""Folds events into the rows of one generation. Events that fail there become letters of the generation."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from sluice.db.apply.projection_letters import load_held
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken, Fault, WriteSuppressed, whose_fault
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.records import Outcome
from sluice.tasks.api import Effect
from sluice.tasks.apply.batch_writer import CHECK_CONSTRAINTS
from sluice.tasks.apply.fold_io import LetterNotStored, store_letters, storing_letters
from sluice.tasks.apply.row_store import AbsentKeyLocks, RowStore
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FoldState, ProjectionLetter
from sluice.tasks.fold.plan import HandlerRun, Planned

Refuse: TypeAlias = Callable[[HandlerRun, Effect], None]
"""Raises for an effect that is not allowed."""


def apply_to_generation(
    session: Session,
    synced: SyncedGeneration,
    events: Sequence[Planned],
    entity: str,
    refuse: Refuse | None = None,
    singly: bool = False,
) -> list[EventResult]:
    """Folds events of one entity type into one generation only. Stores the generation's letters.

    Raises DeploymentBroken for an effect other than a write to this generation. Also raises RowsChanged and
    errors of Postgres. `singly`: each event has a savepoint; an event that Postgres refuses becomes a letter.
    """
    feed = GenerationFeed(session, synced, entity, refuse)
    if synced.has_letters:
        feed.load_held(events)
    return feed.take_singly(events) if singly else feed.take(events)


class GenerationFeed:
    """Writes one generation in one transaction, under the lock of the queue or of the lane."""

    def __init__(
        self,
        session: Session,
        synced: SyncedGeneration,
        entity: str,
        refuse: Refuse | None = None,
        *,
        stores: bool = True,
    ) -> None:
        """Stores the arguments. If `stores` is False, the caller stores the letters, not this object."""
        self._stores = stores
        self._session = session
        self._synced = synced
        self._entity = entity
        self._refuse = refuse
        self._locks = AbsentKeyLocks()
        self._held: set[str] = set()
        """Keys whose events wait for this generation."""

    def load_held(self, events: Iterable[Planned]) -> None:
        """Reads which entities of the events have a letter that their later events wait for."""
        keys = sorted({p.decoded.entity_key for p in events if p.decoded.entity_key is not None})
        place = (self._synced.projection, self._synced.generation, self._entity)
        self._held |= load_held(self._session, *place, keys)

    def take(self, events: Sequence[Planned], *, fault: EventFault | None = None) -> list[EventResult]:
        """Folds the events and stores their letters. `fault`: why Postgres refused the only event."""
        settled = self._fold(events, fault=fault)
        self._store_letters(settled, cut=False)
        return settled

    def take_singly(self, events: Sequence[Planned]) -> list[EventResult]:
        """Folds each event in a savepoint of its own. An event that Postgres refuses becomes a letter."""
        settled: list[EventResult] = []
        suppressed: list[WriteSuppressed] = []
        written: set[str] = set()
        for event in events:
            fault: EventFault | None = None
            try:
                settled += self._in_savepoint(lambda event=event: self.take([event]))  # type: ignore[misc]
                written.add(self._synced.table)
                continue
            except LetterNotStored:
                settled += self._take_cut(event)
                continue
            except Exception as error:
                if whose_fault(error) is not Fault.EVENT:
                    raise
                if isinstance(error, WriteSuppressed):
                    suppressed.append(error)
                fault = EventFault.of(error)
            settled += self._take_refused(event, fault)
        if suppressed and self._synced.table not in written:
            raise DeploymentBroken(str(suppressed[0]))
        return settled

    def _fold(self, events: Sequence[Planned], *, fault: EventFault | None = None) -> list[EventResult]:
        name = self._synced.projection
        store = RowStore(self._session, {name: self._synced.generation}, self._locks)
        memory = FoldState(store.load_row, _no_effects, refuse=self._refuse, held={name: set(self._held)})
        memory.faults = {} if fault is None else {name: fault}
        memory.rows = store.load(events)
        folded = fold(events, memory)
        if folded.emits or folded.calls:
            raise AssertionError(f"{self._synced.table}: the fold let a projection emit or call")
        store.write(memory.rows)
        self._session.defer(CHECK_CONSTRAINTS)
        settled = [self._as_letter(one) for one in folded.settled]
        self._held = memory.held[name] | {
            key
            for one in settled
            if one.letters and one.letters[0].holds and (key := one.planned.decoded.entity_key) is not None
        }
        return settled

    def _in_savepoint(self, action: Callable[[], list[EventResult]]) -> list[EventResult]:
        locks, held = dict(self._locks.held), set(self._held)
        try:
            with self._session.savepoint():
                return action()
        except Exception:
            self._locks.held, self._held = locks, held
            raise

    def _as_letter(self, settled: EventResult) -> EventResult:
        """Returns an event that died as a whole (an undecodable record, for example) as a letter."""
        if settled.error is None or settled.outcome is None:
            return settled
        planned = settled.planned
        holds = planned.parks and planned.decoded.entity_key is not None
        letter = ProjectionLetter(self._synced.projection, settled.outcome, settled.error, holds)
        return EventResult(planned, Outcome.APPLIED, letters=(letter,))

    def _take_refused(self, event: Planned, fault: EventFault) -> list[EventResult]:
        try:
            return self._in_savepoint(lambda: self.take([event], fault=fault))
        except LetterNotStored:
            return self._take_cut(event, fault=fault)

    def _take_cut(self, event: Planned, *, fault: EventFault | None = None) -> list[EventResult]:
        def take_cut() -> list[EventResult]:
            settled = self._fold([event], fault=fault)
            self._store_letters(settled, cut=True)
            return settled

        return self._in_savepoint(take_cut)

    def _store_letters(self, settled: Sequence[EventResult], *, cut: bool) -> None:
        if not self._stores:
            return
        with storing_letters(len(settled), cut=cut):
            store_letters(self._session, self._synced, self._entity, settled, cut=cut)


def _no_effects(effect_key: str) -> None:
    raise AssertionError(f"{effect_key}: the fold lets no projection make a call")
