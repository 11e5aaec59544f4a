"""Decides what follows a failed attempt at the apply transaction. Pure."""

from dataclasses import dataclass
from enum import Enum

from sluice.db.errors import QUERY_CANCELED, STALE_PLAN, ErrorKind, RowsChanged, classify, sqlstate

PATIENCE_SECONDS = 20.0  # then the task returns: the bridge still holds the batch, and sends it again
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0
MAX_ROWS_CHANGED = 5  # somebody else keeps writing to these rows: smaller steps meet him less
MAX_CANCELED = 2  # the batch is too slow as one: a single event may be the reason


class Step(Enum):
    """What to do after a failed attempt."""

    AGAIN = "again"
    SINGLY = "singly"  # again, event by event, each in a savepoint
    HALT = "halt"  # the deployment is broken
    GIVE_UP = "give up"  # out of patience; nothing is lost


@dataclass(slots=True)
class Tries:
    """Failed attempts at one batch."""

    attempts: int = 0
    rows_changed: int = 0
    canceled: int = 0
    stale_plans: int = 0
    singly: bool = False

    def after(self, error: Exception, *, elapsed_seconds: float) -> Step:
        """Counts a failure and says what follows it."""
        self.attempts += 1
        code = sqlstate(error)
        self.rows_changed += isinstance(error, RowsChanged)
        self.canceled += code == QUERY_CANCELED
        self.stale_plans += code in STALE_PLAN
        kind = ErrorKind.TRANSIENT if isinstance(error, RowsChanged) else classify(error)
        if kind is ErrorKind.BROKEN or self.stale_plans > 1:
            return Step.HALT
        if elapsed_seconds > PATIENCE_SECONDS:
            return Step.GIVE_UP
        if kind is ErrorKind.REJECTED:
            # Event by event, a refusal is caught at its event. One that still comes here is nobody's.
            step = Step.HALT if self.singly else Step.SINGLY
        elif self.rows_changed >= MAX_ROWS_CHANGED or self.canceled >= MAX_CANCELED:
            step = Step.SINGLY
        else:
            step = Step.AGAIN
        self.singly = self.singly or step is Step.SINGLY
        return step

    def pause_seconds(self, jitter: float) -> float:
        """How long to wait before the next attempt; `jitter` is drawn from [0, 1)."""
        pause: float = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self.attempts, 10))
        return pause * (0.5 + jitter / 2)
