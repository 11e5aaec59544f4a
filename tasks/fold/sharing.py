"""Finds the events of a batch that depend on each other. Pure."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import TypeAlias

from sqlalchemy import Table

from sluice.tasks.fold.decision import effect_key
from sluice.tasks.fold.plan import Planned, called_effects, touched_rows

RowPlace: TypeAlias = tuple[Table, str]
"""A row: its declared table and its key."""


class Sharing:
    """Finds the events that depend on given events: they share rows, entities or calls."""

    def __init__(self, events: Sequence[Planned]) -> None:
        self._events = events
        self._things: list[list[object]] | None = None
        self._users: defaultdict[object, list[int]] = defaultdict(list)

    def closure(self, seeds: Collection[int]) -> set[int]:
        """Returns the numbers of the events that depend on these, themselves included."""
        found = set(seeds)
        if not found or len(found) == len(self._events):
            return found
        if self._things is None:
            self._things = [_things_of(planned) for planned in self._events]
            for number, things in enumerate(self._things):
                for thing in things:
                    self._users[thing].append(number)
        waiting, seen = list(found), set[object]()
        while waiting:
            for thing in self._things[waiting.pop()]:
                if thing not in seen:
                    seen.add(thing)
                    new = [number for number in self._users[thing] if number not in found]
                    found.update(new)
                    waiting += new
        return found

    def rows_of(self, numbers: Iterable[int]) -> set[RowPlace]:
        """Returns the rows that events touch."""
        return {place for number in numbers for place in touched_rows(self._events[number])}


def _things_of(planned: Planned) -> list[object]:
    things: list[object] = list(touched_rows(planned))
    if planned.decoded.entity_key is not None:
        things.append(planned.decoded.entity_key)
    things.append(planned.decoded.identity)
    things += [
        effect_key(run, planned.decoded, ordinal, call) for run, ordinal, call in called_effects(planned)
    ]
    return things
