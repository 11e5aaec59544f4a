"""Refuses effects that could change something if an event of a topic with dedup="natural" is applied again.

Pure. A write that is applied again changes nothing if its version decides whether it is applied. Two equal
versions must have the same result in any order: integers conflict, and timestamps need
`equal_versions="first"`.
"""

import ast
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Table

from sluice.db.tables import Shape, TableRefused, shape_of
from sluice.tasks.api import Call, Delete, Effect, Emit, Increment, Insert, Merge, Read, Topic, Upsert
from sluice.tasks.fold.handler_signature import HandlersRefused
from sluice.tasks.fold.versionless import UNKNOWN, argument, named_calls

if TYPE_CHECKING:
    from sluice.tasks.fold.registry import AnyEntry

VERSIONED = (Upsert, Merge, Delete)
REFUSED = (Insert, Increment, Read, Emit, Call)


def natural_problem(effect: Effect, topic: str) -> str | None:
    """Returns why a checked effect of an event of this topic is refused, None if it is accepted."""
    kind = type(effect)
    if not isinstance(effect, VERSIONED):
        return _kind_problem(kind, topic)
    return _version_problem(kind, effect.table, effect.version, topic) or _table_problem(effect.table, topic)


def refuse_unnatural(entries: Iterable["AnyEntry"], topics: Mapping[str, Topic]) -> None:
    """Raises HandlersRefused, with file and line, if all topics of a handler are natural and it makes an
    effect that is refused there.

    Reads the sources of the handler and of the functions that it names. What the sources do not show is
    refused when the handler yields it.
    """
    natural = {topic.name for topic in topics.values() if topic.dedup == "natural"}
    for entry in entries:
        taken = topics.keys() if entry.topics is None else entry.topics
        if not natural.issuperset(taken):
            continue
        topic = sorted(taken)[0]
        into = getattr(entry, "into", None)
        if into is not None and (problem := _table_problem(into, topic)) is not None:
            raise HandlersRefused(f"{entry.name}: {problem}")
        for call in named_calls(entry.function):
            problem = _call_problem(call.made, call.node, call.names, topic)
            if problem is not None:
                raise HandlersRefused(f"{call.place}: {entry.name}: {problem}")


def _call_problem(made: Any, node: ast.Call, names: Mapping[str, Any], topic: str) -> str | None:
    if made in REFUSED:
        return _kind_problem(made, topic)
    if made not in VERSIONED:
        return None
    table = argument(node, names, "table", 0)
    shown = table if isinstance(table, Table) else None
    version = argument(node, names, "version", 2 if made is Delete else 3)
    problem = _version_problem(made, shown, version, topic)
    return problem or (None if shown is None else _table_problem(shown, topic))


def _kind_problem(kind: type, topic: str) -> str:
    return (
        f'{kind.__name__} for an event of topic {topic}, which has dedup="natural": only Upsert, Merge and'
        f" Delete with a version change nothing if the event is applied again; {_INSTEAD}"
    )


def _version_problem(kind: type, table: Table | None, version: Any, topic: str) -> str | None:
    if version is not None or version is UNKNOWN:
        return None
    of = "" if table is None else f" of {table.name}"
    return (
        f'{kind.__name__}{of} with version=None for an event of topic {topic}, which has dedup="natural": the'
        f" event would replace newer values if it is applied again; give a version, or {_INSTEAD}"
    )


def _table_problem(table: Table, topic: str) -> str | None:
    shape = _shape(table)
    if shape is None or not shape.last_wins:
        return None
    return (
        f"{shape.name} has timestamp versions: of two equal versions, the write that is applied last wins, so"
        f' an event of topic {topic}, which has dedup="natural", could replace another one if it is applied'
        ' again; declare the table with equal_versions="first" or with integer versions,'
        f" or {_INSTEAD}"
    )


def _shape(table: Table) -> Shape | None:
    try:
        return shape_of(table)
    except TableRefused:
        return None


_INSTEAD = 'use dedup="id" for the topic'
