"""Folds events on the assumption that each is new and each row is absent or older. Pure.

Under this assumption most events need no row in memory: the fold returns what to write, and with which guard.
The statements of `db/apply/assumed_rows` prove the guards. Events for which this is not possible are left to
the exact fold, with all events that share a row, an entity or a call with them. So no result of one
fold depends on the other.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Table

from sluice.db.records import LedgerRow, OutboxRow, Outcome
from sluice.db.tables import Shape, shape_of
from sluice.db.values import ValueRefused, add_exactly
from sluice.tasks.api import Call, Emit, Increment, Insert, Upsert
from sluice.tasks.events.decode import Decoded
from sluice.tasks.fold.checked_writes import version_number
from sluice.tasks.fold.decision import WORST_FIRST, derived_id, ledger_row
from sluice.tasks.fold.emitting import outbox_row
from sluice.tasks.fold.fold_state import EventResult, FirstSeen
from sluice.tasks.fold.plan import HandlerRun, Planned
from sluice.tasks.fold.sharing import RowPlace
from sluice.tasks.fold.trace_context import carried_trace
from sluice.tasks.fold.versioned_row import content_hash


class NeedsRow(Exception):
    """The event cannot be folded without its rows."""


class AssumedRow(msgspec.Struct):
    """What the events of a batch make of one row."""

    fields: Mapping[str, Any] | None = None
    """None if no event wrote the whole row."""
    older_than: int | None = None
    """The first version that was written."""
    version: int | None = None
    sums: dict[str, Any] = msgspec.field(default_factory=dict)
    """Counter → sum of its deltas."""
    inserted_hash: UUID | None = None
    """Set if an Insert wrote the row first."""


class AssumedEvent(msgspec.Struct):
    """The result of one event, if the assumption is true."""

    result: EventResult
    emits: Sequence[OutboxRow] = ()
    calls: Sequence[LedgerRow] = ()


@dataclass(slots=True)
class AssumedFold:
    """The results by the numbers of the events. Events without a result are left to the exact fold."""

    events: dict[int, AssumedEvent] = field(default_factory=dict)
    rows: dict[RowPlace, AssumedRow] = field(default_factory=dict)
    other_tables: set[Table] = field(default_factory=set)
    """Tables that were written under a key other than the event's."""

    def leave(self, numbers: Iterable[int], places: Iterable[RowPlace]) -> None:
        """Removes the results of events that share nothing with the remaining ones."""
        for number in numbers:
            self.events.pop(number, None)
        for place in places:
            self.rows.pop(place, None)


def stays_apart(planned: Planned, left: Set[str]) -> bool:
    """Returns True for an event that may end otherwise than applied, or whose handlers run again to read."""
    if planned.ignored:
        return False
    if not planned.runs or planned.error is not None or planned.decoded.error is not None:
        return True
    return any(run.reads or run.error is not None or (left and run.into is not None) for run in planned.runs)


def needs_rows(planned: Planned) -> bool:
    """Returns True for an event whose writes depend on their rows."""
    effect: Any
    for run in planned.runs:
        for effect in run.effects:
            kind = type(effect)
            if kind is Upsert or kind is Insert:
                if not _may_be_assumed(shape_of(effect.table)):
                    return True
            elif kind is Increment:
                if not _may_be_counted(shape_of(effect.table), effect):
                    return True
            elif kind is not Emit and kind is not Call:
                return True
    return False


def _may_be_assumed(shape: Shape) -> bool:
    # The newest Delete of a key is in another table.
    return not shape.deletable


def _may_be_counted(shape: Shape, write: Increment) -> bool:
    return not shape.deletable and write.floor is None and shape.has_exact_counters


def fold_assuming(
    events: Sequence[Planned], exact: Callable[[Collection[int]], set[int]], seeds: Collection[int]
) -> AssumedFold:
    """Folds all events but `seeds` and those that depend on these. `exact` returns a closure."""
    leaving = exact(seeds)
    while True:
        folded = AssumedFold()
        further = _fold(events, leaving, folded)
        if not further:
            return folded
        # Discards this fold, because later events may have used rows of these events.
        leaving = exact({*leaving, *further})


def _fold(events: Sequence[Planned], leaving: Set[int], folded: AssumedFold) -> list[int]:
    """Folds the events. Returns the numbers of those that need their rows."""
    further: list[int] = []
    seen: dict[int, int] = {}  # the key is the identity's number, which is hashed faster than the UUID
    call_keys: set[str] = set()
    for number, planned in enumerate(events):
        if number in leaving:
            continue
        decoded = planned.decoded
        first = seen.setdefault(decoded.identity.int, number) if decoded.stores_identity else number
        if first != number:
            before = events[first].decoded
            if before.data_hash != decoded.data_hash:
                further.append(number)  # a conflict
            place = FirstSeen(before.data_hash, before.topic_id, before.partition, before.record.offset)
            here = (decoded.topic_id, decoded.partition, decoded.record.offset)
            outcome = None if place[1:] == here else Outcome.DUPLICATE
            folded.events[number] = AssumedEvent(EventResult(planned, outcome, first=place))
            continue
        if planned.ignored:
            folded.events[number] = AssumedEvent(EventResult(planned, Outcome.IGNORED))
            continue
        try:
            folded.events[number] = _settle(planned, folded, call_keys)
        except NeedsRow:
            further.append(number)
    return further


def _settle(planned: Planned, folded: AssumedFold, call_keys: set[str]) -> AssumedEvent:
    emits: list[OutboxRow] = []
    calls: list[LedgerRow] = []
    if len(planned.runs) == 1:
        outcome = _apply_part(planned.runs, planned.decoded, folded, emits, calls)
    else:
        parts = planned.parts
        outcomes = [_apply_part(runs, planned.decoded, folded, emits, calls) for runs in parts]
        # An event with only projection handlers has the outcome of its projections.
        outcome = outcomes[0] if parts[0][0].into is None else _worst(outcomes)
    for call in calls:
        if call.effect_key in call_keys:
            raise NeedsRow
        call_keys.add(call.effect_key)
    return AssumedEvent(EventResult(planned, outcome, outgoing=len(emits) + len(calls)), emits, calls)


def _apply_part(
    runs: Sequence[HandlerRun],
    decoded: Decoded,
    folded: AssumedFold,
    emits: list[OutboxRow],
    calls: list[LedgerRow],
) -> Outcome:
    if len(runs) == 1:
        return _apply(runs[0], decoded, folded, emits, calls)
    return _worst([_apply(run, decoded, folded, emits, calls) for run in runs])


def _worst(outcomes: Collection[Outcome]) -> Outcome:
    return next((one for one in WORST_FIRST if one in outcomes), Outcome.IGNORED)


def _apply(
    run: HandlerRun,
    decoded: Decoded,
    folded: AssumedFold,
    emits: list[OutboxRow],
    calls: list[LedgerRow],
) -> Outcome:
    """Applies the effects of one handler, up to its first write without effect (the gate rule)."""
    event, rows = run.event, folded.rows
    result = Outcome.IGNORED
    write: Any
    for ordinal, write in enumerate(run.effects, start=1):
        kind = type(write)
        if kind is Emit:
            event_id = derived_id(decoded.identity, run.entry.name, ordinal)
            trace = carried_trace(event.headers, decoded.identity) if event.headers else {}
            emits.append(outbox_row(write, event_id, event.time, trace))
            result = Outcome.APPLIED
            continue
        if kind is Call:
            calls.append(ledger_row(run, decoded, ordinal, write))
            result = Outcome.APPLIED
            continue
        table, key = write.table, write.key
        place = (table, key)
        if key != decoded.entity_key is not None:
            folded.other_tables.add(table)
        row = rows.get(place)
        is_first = row is None
        if row is None:
            row = rows[place] = AssumedRow()
        shape = shape_of(table)
        if kind is Upsert:
            outcome = upsert(shape, row, write.values, write.version)
        elif kind is Insert:
            outcome = insert(row, write.values, version_number(shape, event.version), is_first=is_first)
        else:
            outcome = increment(shape, row, write.deltas)
        if outcome is not Outcome.APPLIED:
            return outcome if result is Outcome.IGNORED else result
        result = outcome
    return result


def upsert(shape: Shape, row: AssumedRow, fields: Mapping[str, Any], version: int | None) -> Outcome:
    """Applies an Upsert, as `versioned_row.upsert` does to a row that is older than all versions here."""
    known = row.version
    if version is not None:
        if known is not None and version <= known and not (version == known and shape.last_wins):
            if version < known:
                return Outcome.STALE
            if row.fields == fields:
                return Outcome.DUPLICATE
            if shape.first_wins:
                return Outcome.STALE
            raise NeedsRow  # a conflict
        if row.older_than is None and row.inserted_hash is None:
            row.older_than = version
        row.version = version
    if row.fields is None and row.sums and not shape.may_count_absent:
        raise NeedsRow  # If the row is absent, the earlier Increment makes a dead letter.
    row.fields = fields
    return Outcome.APPLIED


def insert(row: AssumedRow, fields: Mapping[str, Any], version: int | None, *, is_first: bool) -> Outcome:
    """Applies an Insert of an absent row. Raises NeedsRow for a row that another event of the batch wrote."""
    if not is_first:
        raise NeedsRow
    row.fields, row.version, row.inserted_hash = fields, version, content_hash(fields)
    return Outcome.APPLIED


def increment(shape: Shape, row: AssumedRow, deltas: Mapping[str, Any]) -> Outcome:
    """Adds to counters. Raises NeedsRow if a sum between the first and the last delta may be out of range."""
    for name, delta in deltas.items():
        known = row.sums.get(name)
        if known is None:
            row.sums[name] = delta
            continue
        if (delta < 0) != (known < 0) and delta and known:
            raise NeedsRow
        try:
            row.sums[name] = shape.coercers[name](add_exactly(known, delta))
        except ValueRefused:
            raise NeedsRow from None
    return Outcome.APPLIED
