"""Redrives the letters of a folded log, and rebuilds a projection from it. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from sqlalchemy import Table

from sluice.db.records import Outcome
from sluice.tasks.events.decode import Decoded, decode
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import TAKEN, EventResult, FoldState, ProjectionLetter
from sluice.tasks.fold.plan import plan_projection
from sluice.tasks.fold.versioned_row import Row
from sluice.testing.folded_log import Entry, FoldedLog, Letter, no_call, no_row

Values: TypeAlias = dict[str, Any]


def redrive(log: FoldedLog) -> None:
    """Applies dead letters and the events that wait for them again, with the current code of the log.

    Letters of projections come last. The redrive of an entity ends at the first event that fails again.
    """
    _redrive_events(log)
    _redrive_projections(log)


def rebuild(log: FoldedLog, table: Table) -> dict[str, tuple[Values | None, Values | None]]:
    """Computes a projection again from the log, with the current code of the log, and swaps it in.

    Returns key → (values before, values after) of the rows that differ. Reads topic by topic, as a rebuild
    reads partition by partition.
    """
    rows: dict[tuple[Table, str], Row] = {}
    held: defaultdict[str, dict[str, set[str]]] = defaultdict(dict)
    log.letters = [letter for letter in log.letters if letter.projection != table.name]
    taken = [
        (number, entry)
        for number, entry in enumerate(log.entries)
        if entry.outcome in TAKEN and not entry.repeats
    ]
    for number, entry in sorted(taken, key=lambda pair: pair[1].topic):
        entity = log.registry.topics[entry.topic].entity.name
        memory = FoldState(no_row, no_call, rows=rows, held=held[entity])
        log.add_letters(number, _project(log, table, _decoded(log, entry), memory))
    before, after = _values(log.rows, table), _values(rows, table)
    log.rows = {place: row for place, row in log.rows.items() if place[0] is not table} | rows
    _hold(log)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def _redrive_events(log: FoldedLog) -> None:
    own = [letter for letter in log.letters if letter.projection is None]
    conflicts = [letter for letter in own if letter.outcome is Outcome.CONFLICT]
    others = [letter for letter in own if letter.outcome is not Outcome.CONFLICT]
    keyless = [letter for letter in others if letter.key is None]
    behind = _by_entity([letter for letter in others if letter.key is not None])
    blocked: set[tuple[str, str | None]] = set()
    # No event waits behind a conflict or behind an event without an entity.
    for letter in (*behind, *keyless, *conflicts):
        if letter.outcome is not Outcome.CONFLICT and (letter.entity, letter.key) in blocked:
            continue
        entry = log.entries[letter.entry]
        log.letters.remove(letter)
        result = _apply_again(log, letter.entity, _decoded(log, entry))
        outcome = result.outcome or entry.outcome
        log.entries[letter.entry] = replace(entry, outcome=outcome)
        log.add_letters(letter.entry, result, letter)
        if outcome is Outcome.DEAD and result.planned.parks and letter.key is not None:
            blocked.add((letter.entity, letter.key))
    log.parked.clear()
    for letter in log.letters:
        if letter.projection is None and letter.holds and letter.key is not None:
            log.parked[letter.entity].add(letter.key)


def _by_entity(letters: Sequence[Letter]) -> list[Letter]:
    """Sorts letters in the order in which commands redrive them: entity by entity, first the
    entity with the oldest letter.
    """
    first: dict[object, int] = {}
    for letter in letters:
        first.setdefault(_entity_of(letter), letter.number)
    return sorted(letters, key=lambda letter: (first[_entity_of(letter)], letter.number))


def _entity_of(letter: Letter) -> tuple[object, ...]:
    # A letter without an entity is redriven alone.
    alone = letter.number if letter.key is None else None
    return letter.projection, letter.entity, letter.key, alone


def _apply_again(log: FoldedLog, entity: str, decoded: Decoded) -> EventResult:
    """Applies an event even if it already has an outcome and its entity is blocked."""
    known = log.identities.get(decoded.identity)
    if known is not None and known[1:] == (decoded.topic_id, decoded.partition, decoded.record.offset):
        # The log has the event as dead or waiting. The redrive changes this outcome.
        del log.identities[decoded.identity]
    return log.fold_one(decoded, log.memory_of(entity, parked=set()))


def _redrive_projections(log: FoldedLog) -> None:
    blocked: set[tuple[str, str, str]] = set()
    of_projections = [letter for letter in log.letters if letter.projection is not None]
    for letter in _by_entity(of_projections):
        table = log.registry.projection_tables.get(letter.projection or "")
        place = None if letter.key is None else (letter.projection or "", letter.entity, letter.key)
        if table is None or place in blocked:
            continue
        log.letters.remove(letter)
        memory = FoldState(no_row, no_call, rows=log.rows)
        result = _project(log, table, _decoded(log, log.entries[letter.entry]), memory)
        log.add_letters(letter.entry, result, letter)
        if place is not None and any(one.holds for one in result.letters):
            blocked.add(place)
    _hold(log)


def _project(log: FoldedLog, table: Table, decoded: Decoded, memory: FoldState) -> EventResult:
    """Folds one event into one projection. An event that fails as a whole becomes a letter of the
    projection.
    """
    [result] = fold([plan_projection(log.registry, table, decoded)], memory).settled
    if result.error is None or result.outcome is None:
        return result
    holds = result.planned.parks and decoded.entity_key is not None
    letter = ProjectionLetter(table.name, result.outcome, result.error, holds)
    return EventResult(result.planned, Outcome.APPLIED, letters=(letter,))


def _hold(log: FoldedLog) -> None:
    """In a projection, events of an entity wait as long as an earlier letter of the entity blocks them."""
    log.held.clear()
    for letter in log.letters:
        if letter.projection is not None and letter.holds and letter.key is not None:
            log.held[letter.entity].setdefault(letter.projection, set()).add(letter.key)


def _decoded(log: FoldedLog, entry: Entry) -> Decoded:
    topic = log.registry.topics[entry.topic]
    return decode(topic, entry.topic_id, entry.partition, entry.record)


def _values(rows: Mapping[tuple[Table, str], Row], table: Table) -> dict[str, Values]:
    return {
        key: dict(row.values) for (of, key), row in rows.items() if of is table and row.values is not None
    }
