"""The fold: events in record order against rows in memory. Pure; the same code is the oracle of the tests."""

from collections.abc import Callable, Generator, Iterable, Sequence
from hashlib import blake2b
from typing import Any, assert_never, cast
from uuid import UUID

import msgspec
from sqlalchemy import Table

from sluice.db.records import LedgerRow, OutboxRow, Outcome
from sluice.db.tables import shape_of
from sluice.db.values import ValueRefused
from sluice.runtime.worker_stop import is_worker_stop
from sluice.tasks.api import Call, Delete, Effect, Emit, Increment, Insert, Merge, Read, Upsert
from sluice.tasks.events.decode import Decoded
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.emitting import outbox_row
from sluice.tasks.fold.fold_state import (
    Conflict,
    EventResult,
    FirstSeen,
    FoldResult,
    FoldState,
    LoadFailed,
    Waiting,
)
from sluice.tasks.fold.handler_faults import blame
from sluice.tasks.fold.handler_steps import begin_run, end_quietly, iter_effects
from sluice.tasks.fold.plan import HandlerRun, Planned
from sluice.tasks.fold.row_writes import apply_write, view
from sluice.tasks.fold.trace_context import carried_trace
from sluice.tasks.fold.versioned_row import Row, WriteResult

# Several handlers of one event, several writes of one handler: the first of these that occurs.
_WORST_FIRST = (
    Outcome.DEAD,
    Outcome.CONFLICT,
    Outcome.APPLIED,
    Outcome.STALE,
    Outcome.DUPLICATE,
    Outcome.IGNORED,
)
_BY_RESULT = {
    WriteResult.APPLIED: Outcome.APPLIED,
    WriteResult.STALE: Outcome.STALE,
    WriteResult.DUPLICATE: Outcome.DUPLICATE,
    WriteResult.CONFLICT: Outcome.CONFLICT,
}


def fold(
    events: Iterable[Planned], memory: FoldState, is_over: Callable[[], bool] | None = None
) -> FoldResult:
    """Settles each event in turn; an event's own fault is its outcome.

    No further event is begun once `is_over` returns True: then the first of them are settled, at least one.
    Raises what `FoldState.refuse` raises, and the error of a failed load: a lost connection must not bury an
    event.
    """
    folded = FoldResult()
    for planned in events:
        if is_over is not None and folded.settled and is_over():
            break
        try:
            folded.settled.append(_settle(planned, memory, folded))
        except _Died as died:
            folded.bury(planned, died.fault, memory)
        except LoadFailed as failed:
            # Callers judge the database's own error; its cause stays as it was.
            raise failed.cause from failed.cause.__cause__
    return folded


def effect_key(run: HandlerRun, decoded: Decoded, ordinal: int, call: Call) -> str:
    """The idempotency key of a call: effect and `once`, or effect and where it came from."""
    once = call.once or derived_id(decoded.identity, run.entry.name, ordinal).hex
    return f"{call.effect}:{once}"


def derived_id(identity: UUID, handler: str, ordinal: int) -> UUID:
    """The same id whenever the same event is folded again."""
    source = identity.bytes + ordinal.to_bytes(4, "big") + handler.encode()
    return UUID(bytes=blake2b(source, digest_size=16).digest())


def _settle(planned: Planned, memory: FoldState, folded: FoldResult) -> EventResult:
    decoded = planned.decoded
    record = decoded.record
    here = FirstSeen(decoded.data_hash, decoded.topic_id, decoded.partition, record.offset)
    known = memory.identities.get(decoded.identity)
    if known == here:
        return EventResult(planned, None, known=True)
    if known is not None and known.data_hash == here.data_hash:
        return EventResult(planned, Outcome.DUPLICATE, known=True)
    if known is not None:
        text = f"event id seen before at {known.partition}:{known.offset} with other type, version or data"
        return EventResult(planned, Outcome.CONFLICT, EventFault.of(Conflict(text)), known=True)
    memory.identities[decoded.identity] = here
    if planned.ignored:
        return EventResult(planned, Outcome.IGNORED)
    if decoded.entity_key in memory.parked:
        return EventResult(planned, Outcome.WAITING, EventFault.of(Waiting("its entity is parked")))
    error = decoded.error or planned.error
    if error is not None:
        raise _Died(error)
    scratch = _Scratch(planned, memory)
    try:
        outcome = scratch.run_handlers()
    except Conflict as conflict:
        return EventResult(planned, Outcome.CONFLICT, EventFault.of(conflict))
    memory.rows.update(scratch.rows)
    memory.effect_keys.update({call.effect_key: call.fingerprint for call in scratch.calls})
    folded.emits += scratch.emits
    folded.calls += scratch.calls
    folded.call_conflicts += scratch.call_conflicts
    outgoing = len(scratch.emits) + len(scratch.calls)
    return EventResult(planned, outcome, call_conflicts=len(scratch.call_conflicts), outgoing=outgoing)


class _Died(Exception):
    """The event's own fault."""

    def __init__(self, fault: EventFault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Ended(Exception):
    """The gate rule: the first write that does not take effect ends its handler."""


class _Scratch:
    """What one event would do; taken over only if nothing in it dies or conflicts."""

    def __init__(self, planned: Planned, memory: FoldState) -> None:
        self.decoded = planned.decoded
        self.runs: Sequence[HandlerRun] = planned.runs
        self.memory = memory
        self.rows: dict[tuple[Table, str], Row] = {}
        self.emits: list[OutboxRow] = []
        self.calls: list[LedgerRow] = []
        self.call_conflicts: list[LedgerRow] = []
        self.results: set[Outcome] = set()
        self.ordinal = 0

    def run_handlers(self) -> Outcome:
        """All handlers of the event, one decision. Raises what kills it, or Conflict."""
        if not any(run.reads for run in self.runs):
            return self._run_handlers()
        watch = begin_run(self.decoded)
        try:
            return self._run_handlers()
        finally:
            watch.end()

    def _run_handlers(self) -> Outcome:
        for run in self.runs:
            self.ordinal = 0
            if run.reads:
                self._run_with_rows(run)
                continue
            try:
                for effect in run.effects:
                    self.apply(run, effect)
            except _Ended:
                continue
            if run.error is not None:
                raise _Died(run.error)
        return next((outcome for outcome in _WORST_FIRST if outcome in self.results), Outcome.IGNORED)

    def _run_with_rows(self, run: HandlerRun) -> None:
        """Runs a handler once more, and sends it the rows that it reads."""
        steps = iter_effects(run.entry, run.event)
        answer = None
        try:
            while (effect := _step(run, steps, answer)) is not None:
                answer = self.apply(run, effect)
        except _Ended:
            _end(run, steps)
        except BaseException:
            end_quietly(steps)
            raise

    def apply(self, run: HandlerRun, effect: Effect) -> Any:
        """One effect; returns the row for a Read."""
        self.ordinal += 1
        if self.memory.refuse is not None:
            self.memory.refuse(run, effect)
        match effect:
            case Emit():
                self.results.add(Outcome.APPLIED)
                identity, event = self.decoded.identity, run.event
                event_id = derived_id(identity, run.entry.name, self.ordinal)
                trace = carried_trace(event.headers, identity) if event.headers else {}
                self.emits.append(outbox_row(effect, event_id, event.time, trace))
            case Call():
                self.results.add(Outcome.APPLIED)
                self.call(run, effect)
            case Read(table, key):
                return view(shape_of(table), cast(str, key), self.row(table, cast(str, key)))
            case Insert() | Upsert() | Merge() | Increment() | Delete():
                self.write(run, effect)
            case _:
                assert_never(effect)
        return None

    def row(self, table: Table, key: str) -> Row:
        """The row as this event sees it."""
        return self.rows.get((table, key)) or self.memory.row(table, key)

    def write(self, run: HandlerRun, write: Insert | Upsert | Merge | Increment | Delete) -> None:
        """One write. Raises _Ended where it took no effect, Conflict where it contradicts the row."""
        table, key = write.table, cast(str, write.key)
        try:
            result, after = apply_write(shape_of(table), self.row(table, key), write, run.event)
        except ValueRefused as refused:
            raise _Died(blame(refused, run.entry)) from None
        if result is None:
            assert isinstance(write, Increment)
            self.results.add(Outcome.APPLIED)
            for instead in write.otherwise:
                self.apply(run, instead)
            raise _Ended
        if result is WriteResult.CONFLICT:
            raise Conflict(
                f"{type(write).__name__} of {table.name} {key!r}: same version or id, other values"
            )
        self.results.add(_BY_RESULT[result])
        if result is not WriteResult.APPLIED:
            raise _Ended
        self.rows[table, key] = after

    def call(self, run: HandlerRun, call: Call) -> None:
        """One ledger row, unless its key is there: then no call, and other args are a call conflict."""
        args = bytes(cast(msgspec.Raw, call.args))
        fingerprint = UUID(bytes=blake2b(args, digest_size=16).digest())
        name = effect_key(run, self.decoded, self.ordinal, call)
        made = LedgerRow(
            name,
            cast(str, call.effect),
            self.decoded.identity,
            self.decoded.entity_key,
            args.decode(),
            fingerprint,
            call.once is not None,
        )
        mine = next((other.fingerprint for other in self.calls if other.effect_key == name), None)
        known = mine or self.memory.fingerprint(name)
        if known is None:
            self.calls.append(made)
        elif known != fingerprint:
            self.call_conflicts.append(made)


def _step(run: HandlerRun, steps: Generator[Effect, Any, None], answer: Any) -> Effect | None:
    """The handler's next effect, None at its end."""
    try:
        return steps.send(answer)
    except StopIteration:
        return None
    except BaseException as error:
        raise _blamed(run, error) from None


def _end(run: HandlerRun, steps: Generator[Effect, Any, None]) -> None:
    try:
        steps.close()
    except BaseException as error:
        raise _blamed(run, error) from None


def _blamed(run: HandlerRun, error: BaseException) -> BaseException:
    """Whatever a handler raises is the event's fault, unless it ends the worker."""
    return error if is_worker_stop(error) else _Died(blame(error, run.entry))
