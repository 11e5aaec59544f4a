"""The fold: applies events in record order to rows in memory. Pure. The tests use it as their oracle."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import cast

from sluice.db.records import Outcome
from sluice.tasks.events.decode import Decoded
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.decision import WORST_FIRST, Decision, Died
from sluice.tasks.fold.fold_state import (
    Conflict,
    EventResult,
    FirstSeen,
    FoldResult,
    FoldState,
    LoadFailed,
    ProjectionLetter,
    Waiting,
)
from sluice.tasks.fold.plan import HandlerRun, Planned


def fold(
    events: Iterable[Planned], memory: FoldState, is_over: Callable[[], bool] | None = None
) -> FoldResult:
    """Settles each event in turn. A fault of an event becomes its outcome.

    Begins no further event after `is_over` returned True, but settles at least one event. Raises errors of
    `FoldState.refuse`. Raises the error of a failed load too, because a lost connection must not make an
    event a dead letter.
    """
    folded = FoldResult()
    for planned in events:
        if is_over is not None and folded.settled and is_over():
            break
        try:
            settled = _settle(planned, memory, folded)
            folded.settled.append(settled)
        except Died as died:
            settled = folded.bury(planned, died.fault, memory)
        except LoadFailed as failed:
            # Callers judge the original error of the database, with its own cause.
            raise failed.cause from failed.cause.__cause__
        decoded = planned.decoded
        if decoded.is_natural and settled.error is not None:
            memory.identities[decoded.identity] = _first_seen(decoded)
    return folded


def _first_seen(decoded: Decoded) -> FirstSeen:
    return FirstSeen(decoded.data_hash, decoded.topic_id, decoded.partition, decoded.record.offset)


def _settle(planned: Planned, memory: FoldState, folded: FoldResult) -> EventResult:
    decoded = planned.decoded
    here = _first_seen(decoded)
    known = memory.identities.get(decoded.identity)
    if known == here:
        return EventResult(planned, None, first=known)
    if memory.erased and here[1:] in memory.erased:
        # Checked before any step that would store the record, such as a conflict or a letter.
        if decoded.stores_identity:
            memory.identities.setdefault(decoded.identity, here)
        return EventResult(planned, Outcome.ERASED, first=known)
    if known is not None and known.data_hash == here.data_hash:
        return EventResult(planned, Outcome.DUPLICATE, first=known)
    if known is not None:
        text = f"event id seen before at {known.partition}:{known.offset} with another type, version or data"
        return EventResult(planned, Outcome.CONFLICT, EventFault.of(Conflict(text)), first=known)
    if decoded.stores_identity:
        memory.identities[decoded.identity] = here
    if planned.ignored:
        return EventResult(planned, Outcome.IGNORED)
    if decoded.entity_key in memory.parked:
        return EventResult(planned, Outcome.WAITING, EventFault.of(Waiting("its entity is parked")))
    error = decoded.error or planned.error
    if error is not None:
        raise Died(error)
    parts = planned.parts
    outcome: Outcome | None = None
    call_conflicts, outgoing, emitted = 0, 0, 0
    if parts and parts[0][0].into is None:
        decision = Decision(planned, parts.pop(0), memory)
        try:
            outcome = decision.run_handlers()
        except Conflict as conflict:
            return EventResult(planned, Outcome.CONFLICT, EventFault.of(conflict))
        decision.take_over(folded)
        call_conflicts, emitted = len(decision.call_conflicts), len(decision.emits)
        outgoing = emitted + len(decision.calls)
    projected, letters = _project(planned, parts, memory, folded) if parts else ((), ())
    if outcome is None:
        # An event with only projection handlers has the outcome of its projections.
        outcome = next((one for one in WORST_FIRST if one in projected), Outcome.IGNORED)
    return EventResult(
        planned,
        outcome,
        call_conflicts=call_conflicts,
        outgoing=outgoing,
        emitted=emitted,
        letters=letters,
    )


def _project(
    planned: Planned, parts: Sequence[Sequence[HandlerRun]], memory: FoldState, folded: FoldResult
) -> tuple[Collection[Outcome], Sequence[ProjectionLetter]]:
    """Folds each projection of an event separately. Returns their outcomes and the letters of failures.

    A failed projection counts as applied. Only the results of this projection are discarded.
    """
    outcomes: set[Outcome] = set()
    letters: list[ProjectionLetter] = []
    key = planned.decoded.entity_key
    for runs in parts:
        assert runs[0].into is not None
        projection = runs[0].into.name
        if projection in memory.left:
            outcomes.add(Outcome.APPLIED)
            continue
        if key in memory.held.get(projection, ()):
            why = EventFault.of(Waiting(f"its entity waits for projection {projection}"))
            letters.append(ProjectionLetter(projection, Outcome.WAITING, why, holds=True))
            continue
        decision = Decision(planned, runs, memory)
        try:
            if projection in memory.faults:
                raise Died(memory.faults[projection])
            outcomes.add(decision.run_handlers())
            decision.take_over(folded)
        except (Died, Conflict) as failed:
            outcome = Outcome.DEAD if isinstance(failed, Died) else Outcome.CONFLICT
            fault = failed.fault if isinstance(failed, Died) else EventFault.of(failed)
            holds = planned.parks and key is not None
            letters.append(ProjectionLetter(projection, outcome, fault, holds))
            if holds:
                memory.held.setdefault(projection, set()).add(cast(str, key))
    if letters:
        outcomes.add(Outcome.APPLIED)
    return outcomes, letters
