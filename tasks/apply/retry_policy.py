"""Decides the next step after a failed attempt at the apply transaction. Pure."""

from dataclasses import dataclass
from enum import Enum

from sluice.db.errors import (
    LOCK_NOT_AVAILABLE,
    QUERY_CANCELED,
    STALE_PLAN,
    Fault,
    RowsChanged,
    sqlstate,
    whose_fault,
)
from sluice.runtime.backoff import backoff_seconds

PATIENCE_SECONDS = 20.0  # then the task returns; the bridge keeps the batch and sends it again
FIRST_PAUSE_SECONDS = 0.1  # a deadlock or a concurrent writer is over within one transaction
LONGEST_PAUSE_SECONDS = 2.0  # short, so that a restarted Postgres is used soon
# After so many failures because of another writer, events are applied one by one: small steps collide less.
MAX_ROWS_CHANGED = 5
# The same after so many time-outs or locks, because a single event may be the cause.
MAX_HELD_UP = 2


class Step(Enum):
    """The next step after a failed attempt."""

    AGAIN = "again"
    SINGLY = "singly"  # again, event by event, each in a savepoint
    HALT = "halt"  # the deployment is broken
    GIVE_UP = "give up"  # the time is over; nothing is lost


def counts(error: Exception) -> bool:
    """Returns True for a failure that a smaller batch may avoid.

    The surroundings are at fault, and the error is RowsChanged or an answer of Postgres.
    """
    answered = isinstance(error, RowsChanged) or sqlstate(error) is not None
    return answered and whose_fault(error) is Fault.SURROUNDINGS


@dataclass(slots=True)
class Tries:
    """Failed attempts at one batch."""

    contains: bool = False
    """True if the code declares projections. A refused batch is then applied event by event, to find out if
    Postgres refuses only a projection."""
    attempts: int = 0
    rows_changed: int = 0
    held_up: int = 0
    stale_plans: int = 0
    singly: bool = False
    halving: bool = False
    """True if events are applied one by one only because Postgres refused at least one of them."""
    step: Step | None = None
    """The step after the newest failure."""

    def pause_after(self, error: Exception, elapsed_seconds: float, jitter: float) -> float | None:
        """Counts a failure. Returns the pause in seconds before the next attempt, or None."""
        self.step = self.after(error, elapsed_seconds=elapsed_seconds)
        if self.step is Step.SINGLY and self.halving:
            return 0.0  # The refusal does not depend on the time.
        return self.pause_seconds(jitter) if self.step in (Step.AGAIN, Step.SINGLY) else None

    def after(self, error: Exception, *, elapsed_seconds: float) -> Step:
        """Counts a failure. Returns the next step."""
        self.attempts += 1
        code = sqlstate(error)
        self.rows_changed += isinstance(error, RowsChanged)
        self.held_up += code in (QUERY_CANCELED, LOCK_NOT_AVAILABLE)
        self.stale_plans += code in STALE_PLAN
        fault = whose_fault(error)
        if fault is Fault.DEPLOYMENT and self.contains and code is not None and not self.singly:
            self.singly = True
            return Step.SINGLY
        if fault is Fault.DEPLOYMENT or self.stale_plans > 1:
            return Step.HALT
        if elapsed_seconds > PATIENCE_SECONDS:
            return Step.GIVE_UP
        if fault is Fault.EVENT:
            # If events are applied one by one, a refused event is handled in its savepoint. So a refusal that
            # still arrives here belongs to no single event.
            step = Step.HALT if self.singly else Step.SINGLY
            self.halving = True
        elif self.rows_changed >= MAX_ROWS_CHANGED or self.held_up >= MAX_HELD_UP:
            step, self.halving = Step.SINGLY, False
        else:
            step = Step.AGAIN
        self.singly = self.singly or step is Step.SINGLY
        return step

    def pause_seconds(self, jitter: float) -> float:
        """Returns the pause before the next attempt; `jitter` is drawn from [0, 1)."""
        return backoff_seconds(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, self.attempts, jitter)
