"""Decides, for events that are settled one by one, when to commit and if the commit is allowed. Pure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sluice.db.errors import (
    Fault,
    WriteSuppressed,
    needs_new_connection,
    sqlstate,
    whose_fault,
)
from sluice.db.records import Outcome
from sluice.tasks.fold.fold_state import EventResult

PASS_SECONDS = 10.0  # then the events so far are committed
LONGEST_SECONDS = 20.0  # then the pass ends, even if no event has proved yet that the server works
_SET_ASIDE_CODES = ("57014", "55P03")
_SET_ASIDE_CLASSES = ("53", "58")


def may_be_set_aside(error: Exception) -> bool:
    """Returns True for an error of the surroundings that may concern one event alone."""
    code = sqlstate(error) or ""
    alone = code in _SET_ASIDE_CODES or code[:2] in _SET_ASIDE_CLASSES
    return alone and whose_fault(error) is Fault.SURROUNDINGS and not needs_new_connection(error)


@dataclass(slots=True)
class SingleEvents:
    """The results of a pass: events that are settled one by one. `limit`: the most events; None: no limit."""

    limit: int | None = None
    clock: Callable[[], float] = time.monotonic
    settled: list[EventResult] = field(default_factory=list)
    written_tables: set[str] = field(default_factory=set)
    aside: list[tuple[EventResult, Exception]] = field(default_factory=list)
    suppressed: list[tuple[WriteSuppressed, Exception]] = field(default_factory=list)
    """Suppressed writes, each with the error to raise unless another event wrote the table."""
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def is_enough(self) -> bool:
        """Returns True if the pass must end before further events are tried.

        The pass takes longer while an event needs another event to prove that the server or the table works.
        """
        seconds = self.clock() - self._started
        if seconds >= LONGEST_SECONDS:
            return True
        is_full = self.limit is not None and len(self.settled) >= self.limit
        return (is_full or seconds >= PASS_SECONDS) and self._error() is None

    def check(self) -> None:
        """Raises the error that must undo the pass, if no event proves that the server or the table works."""
        error = self._error()
        if error is not None:
            raise error

    def _error(self) -> Exception | None:
        for suppressed, broken in self.suppressed:
            if suppressed.table not in self.written_tables:
                return broken
        if self.aside and not may_stand([one for one, _ in self.aside], self.settled):
            return self.aside[0][1]
        return None


def may_stand(aside: Sequence[EventResult], settled: Sequence[EventResult]) -> bool:
    """Returns True if an event was applied whose entity has no event that is set aside.

    Otherwise the server as a whole is slow or held up, and all events stay in their lanes.
    """
    keys = {one.planned.decoded.entity_key for one in aside} - {None}
    applied = [one.planned.decoded.entity_key for one in settled if one.outcome is Outcome.APPLIED]
    return any(key not in keys for key in applied)
