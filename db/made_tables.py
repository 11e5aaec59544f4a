"""Stores the users' tables that were made in this process, and the modules that made them."""

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
    """The place in the code where a table was made. A namespace is the id of a module's dict."""

    place: str
    namespace: int
    importing: frozenset[int]
    """The namespaces of the modules that were being imported when the table was made."""


_made: WeakKeyDictionary[Table, Made] = WeakKeyDictionary()
"""The keys are weak references, so a table without other references is removed."""


def note_table(table: Table) -> None:
    """Stores a table with the modules that made it: the caller, and modules whose import is running."""
    frames = list(_users_frames(sys._getframe(1)))
    importing = frozenset(id(frame.f_globals) for frame in frames if frame.f_code.co_name == "<module>")
    maker = frames[0]
    place = f"{maker.f_code.co_filename}:{maker.f_lineno}"
    _made[table] = Made(place, id(maker.f_globals), importing)


def find_made(table: Table) -> Made | None:
    """Returns the place where a table was made; None if no function of this package made it."""
    return _made.get(table)


def tables_made_by(namespaces: Set[int], visible: set[Table]) -> list[Table]:
    """Returns the tables that these modules made, ordered by name.

    `visible`: the tables known to be in use.
    """
    found = _made_by(namespaces)
    if not visible.issuperset(found):
        del found
        gc.collect()  # a table that is not in `visible` may be unused; then this removes it
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
