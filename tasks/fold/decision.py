"""Runs the handlers that decide together on one event. Either all their results are applied or none. Pure."""

from collections.abc import Generator, Sequence
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
from sluice.tasks.events.identity import uuid_of
from sluice.tasks.fold.emitting import outbox_row
from sluice.tasks.fold.fold_state import Conflict, FoldResult, FoldState
from sluice.tasks.fold.handler_faults import blame
from sluice.tasks.fold.handler_steps import begin_run, end_quietly, iter_effects
from sluice.tasks.fold.plan import HandlerRun, Planned
from sluice.tasks.fold.row_writes import apply_write, view
from sluice.tasks.fold.trace_context import carried_trace
from sluice.tasks.fold.versioned_row import Row, WriteResult

# The outcome of several handlers or writes is the first of these that occurs.
WORST_FIRST = (
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


_HASHER = blake2b(digest_size=16)  # a copy of it is made faster than a new one


def effect_key(run: HandlerRun, decoded: Decoded, ordinal: int, call: Call) -> str:
    """Returns the idempotency key of a call: the effect and `once`, or else the effect and a derived id."""
    once = call.once or derived_id(decoded.identity, run.entry.name, ordinal).hex
    return f"{call.effect}:{once}"


def ledger_row(run: HandlerRun, decoded: Decoded, ordinal: int, call: Call) -> LedgerRow:
    """Returns the ledger row of a call."""
    args = bytes(cast(msgspec.Raw, call.args))
    return LedgerRow(
        effect_key(run, decoded, ordinal, call),
        cast(str, call.effect),
        decoded.identity,
        decoded.entity_key,
        args.decode(),
        uuid_of(blake2b(args, digest_size=16).digest()),
        call.once is not None,
    )


def derived_id(identity: UUID, handler: str, ordinal: int) -> UUID:
    """Returns an id that is the same whenever the same event is folded again."""
    hasher = _HASHER.copy()
    hasher.update(identity.int.to_bytes(16, "big") + ordinal.to_bytes(4, "big") + handler.encode())
    return uuid_of(hasher.digest())


class Died(Exception):
    """Raised if the event itself is at fault."""

    def __init__(self, fault: EventFault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Ended(Exception):
    """Raised at the first write that changes nothing, to end the handler (the gate rule)."""


class Decision:
    """The pending results of handlers that decide together. Applied only if no handler fails or conflicts."""

    def __init__(self, planned: Planned, runs: Sequence[HandlerRun], memory: FoldState) -> None:
        self.decoded = planned.decoded
        self.runs = runs
        self.memory = memory
        self.rows: dict[tuple[Table, str], Row] = {}
        self.emits: list[OutboxRow] = []
        self.calls: list[LedgerRow] = []
        self.call_conflicts: list[LedgerRow] = []
        self.results: set[Outcome] = set()
        self.ordinal = 0

    def run_handlers(self) -> Outcome:
        """Runs all the handlers. Returns the outcome. Raises Died or Conflict."""
        if not any(run.reads for run in self.runs):
            return self._run_handlers()
        watch = begin_run(self.decoded)
        try:
            return self._run_handlers()
        finally:
            watch.end()

    def take_over(self, folded: FoldResult) -> None:
        """Adds the results to the fold."""
        self.memory.rows.update(self.rows)
        self.memory.effect_keys.update({call.effect_key: call.fingerprint for call in self.calls})
        folded.emits += self.emits
        folded.calls += self.calls
        folded.call_conflicts += self.call_conflicts

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
                raise Died(run.error)
        return next((outcome for outcome in WORST_FIRST if outcome in self.results), Outcome.IGNORED)

    def _run_with_rows(self, run: HandlerRun) -> None:
        """Runs a handler again, and sends the rows that the handler reads."""
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
        """Applies one effect. Returns the row for a Read."""
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
        """Returns the row, with the pending writes of this event."""
        return self.rows.get((table, key)) or self.memory.row(table, key)

    def write(self, run: HandlerRun, write: Insert | Upsert | Merge | Increment | Delete) -> None:
        """Applies one write. Raises _Ended if it changes nothing, Conflict if it contradicts the row."""
        table, key = write.table, cast(str, write.key)
        if key != self.decoded.entity_key is not None:
            self.memory.other_tables.add(table)
        try:
            result, after = apply_write(shape_of(table), self.row(table, key), write, run.event)
        except ValueRefused as refused:
            raise Died(blame(refused, run.entry)) from None
        if result is None:
            assert isinstance(write, Increment)
            self.results.add(Outcome.APPLIED)
            for instead in write.otherwise:
                self.apply(run, instead)
            raise _Ended
        if result is WriteResult.CONFLICT:
            raise Conflict(
                f"{type(write).__name__} of {table.name} {key!r}: the stored row has the same version or id,"
                " but other values"
            )
        self.results.add(_BY_RESULT[result])
        if result is not WriteResult.APPLIED:
            if self.memory.on_end is not None:
                self.memory.on_end(run, self.ordinal, write, result)
            raise _Ended
        self.rows[table, key] = after

    def call(self, run: HandlerRun, call: Call) -> None:
        """Adds a ledger row unless its key exists. An existing key with other args is a call conflict."""
        made = ledger_row(run, self.decoded, self.ordinal, call)
        name = made.effect_key
        mine = next((other.fingerprint for other in self.calls if other.effect_key == name), None)
        known = mine or self.memory.fingerprint(name)
        if known is None:
            self.calls.append(made)
        elif known != made.fingerprint:
            self.call_conflicts.append(made)


def _step(run: HandlerRun, steps: Generator[Effect, Any, None], answer: Any) -> Effect | None:
    """Returns the handler's next effect, None at its end."""
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
    """Returns the exception to raise for a handler's error: Died, unless the error stops the worker."""
    return error if is_worker_stop(error) else Died(blame(error, run.entry))
