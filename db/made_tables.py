"""Stores the users' tables that this process made, and the modules that made them."""

import gc
import sys
from collections.abc import Iterator, Set
from dataclasses import dataclass
from types import FrameType
from weakref import WeakKeyDictionary

from sqlalchemy import Table

_LIBRARIES = ("sluice.", "sqlalchemy.")


@dataclass(frozen=True)
class Made:
    """The place where a table was made. A namespace is the id of a module's dict."""

    place: str
    namespace: int
    importing: frozenset[int]
    """The modules that were being imported meanwhile."""


_made: WeakKeyDictionary[Table, Made] = WeakKeyDictionary()
"""The keys are weak: a table without other references is removed."""


def note_table(table: Table) -> None:
    """Stores a table with the modules that made it: the caller, and modules that are being imported."""
    frames = list(_users_frames(sys._getframe(1)))
    importing = frozenset(id(frame.f_globals) for frame in frames if frame.f_code.co_name == "<module>")
    maker = frames[0]
    place = f"{maker.f_code.co_filename}:{maker.f_lineno}"
    _made[table] = Made(place, id(maker.f_globals), importing)


def find_made(table: Table) -> Made | None:
    """Returns the place where a table was made, None if this package's functions did not make it."""
    return _made.get(table)


def tables_made_by(namespaces: Set[int], visible: set[Table]) -> list[Table]:
    """Returns the tables that these modules made, by name. `visible`: the tables known to be in use."""
    found = _made_by(namespaces)
    if not visible.issuperset(found):
        del found
        gc.collect()  # some tables are stored in a place that was not searched, or nowhere
        found = _made_by(namespaces)
    return sorted(found, key=lambda table: table.name)


def _made_by(namespaces: Set[int]) -> list[Table]:
    return [
        table
        for table, made in list(_made.items())
        if made.namespace in namespaces or made.importing & namespaces
    ]


def _users_frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        if not str(frame.f_globals.get("__name__", "")).startswith(_LIBRARIES):
            yield frame
        frame = frame.f_back
