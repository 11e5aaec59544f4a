"""Decides if an attempt at a call may begin, and which state follows when the attempt ends. Pure.

`pending → running → succeeded | failed | uncertain`; `uncertain → pending | succeeded | failed` by an
operator who found out the result. A result of a provider is certain only if the provider reported it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from sluice.db.records import CallState
from sluice.runtime.backoff import backoff_seconds
from sluice.tasks.api import EffectDeclaration

FIRST_PAUSE_SECONDS = 2.0  # jitter removes up to half; short outages of providers end within a second or two
LONGEST_PAUSE_SECONDS = 600.0  # in a long outage, a provider receives a few attempts per call and hour
SHORTEST_RETRY_AFTER_SECONDS = 1.0  # an effect function that requests no pause must not keep a worker busy
LONGEST_RETRY_AFTER_SECONDS = 86_400.0
# After this time, a due call is dispatched again, because its message may be lost. A second message
# makes no second call.
AGAIN_AFTER_SECONDS = 30.0
# The same if the worker that received the message does not declare the effect: another worker may.
LEFT_AFTER_SECONDS = 2.0
CLAIM_MARGIN_SECONDS = 30.0  # between the call's time-out and the end of its claim; time to store the answer


class Ending(Enum):
    """The ending of an attempt without success."""

    NOT_SENT = "not sent"  # certainly not made
    REFUSED = "refused"  # the provider refused it permanently
    UNKNOWN = "unknown"  # the provider may have made it


class Claim(Enum):
    """The decision of a process that received the message of a call."""

    RUN = "run"
    LEAVE = "leave"  # not due, or not pending; it is dispatched again if necessary
    GIVE_UP = "give up"  # no automatic attempt is allowed any more


@dataclass(frozen=True)
class Tried:
    """A call as the ledger holds it. Times are aware; `now` is the clock of Postgres."""

    state: CallState
    tried: int
    """Number of counted attempts after an operator last released the call, including one that runs now."""
    ended_unknown: bool
    first_attempt_at: datetime | None
    due_at: datetime
    now: datetime


@dataclass(frozen=True)
class NextState:
    """The next state of a call, and the time until a pending call is due."""

    state: CallState
    due_in_seconds: float = 0.0
    ended_unknown: bool = False
    """True if the result of the provider in this attempt is unknown."""
    counts: bool = True
    """True if this attempt counts towards the effect's `attempts`."""


def judge_claim(call: Tried, policy: EffectDeclaration, *, behind: bool, paused: bool) -> Claim:
    """Decides if an attempt begins now. `behind`: another call of this entity and effect must end first."""
    if call.state is not CallState.PENDING or call.due_at > call.now or behind or paused:
        return Claim.LEAVE
    if call.ended_unknown and _key_is_forgotten(call, policy):
        return Claim.GIVE_UP
    return Claim.RUN


def _key_is_forgotten(call: Tried, policy: EffectDeclaration) -> bool:
    """Returns True if the provider may forget the key before an attempt that begins now has ended.

    The provider could then carry out the call a second time. The check applies only after an attempt with an
    unknown result, because an attempt that was not sent leaves no key at the provider.
    """
    if policy.on_unknown == "ask" or policy.key_lifetime_seconds is None or call.first_attempt_at is None:
        return True
    honoured_until = call.first_attempt_at + timedelta(seconds=policy.key_lifetime_seconds)
    return call.now + timedelta(seconds=policy.timeout_seconds) >= honoured_until


def judge_ending(
    call: Tried,
    policy: EffectDeclaration,
    ending: Ending,
    *,
    jitter: float,
    retry_after_seconds: float | None = None,
) -> NextState:
    """Returns the next state after an attempt without success; `jitter` is drawn from [0, 1).

    `retry_after_seconds` is the pause that the provider requested, if the call was not sent.
    """
    if ending is Ending.NOT_SENT and retry_after_seconds is not None:
        return NextState(CallState.PENDING, retry_after_seconds, counts=False)
    unknown = ending is Ending.UNKNOWN
    doubtful = call.ended_unknown or unknown
    given_up = CallState.UNCERTAIN if doubtful else CallState.FAILED
    if ending is Ending.REFUSED or call.tried >= policy.attempts:
        return NextState(given_up, ended_unknown=unknown)
    if unknown and policy.on_unknown == "ask":
        return NextState(CallState.UNCERTAIN, ended_unknown=True)
    return NextState(CallState.PENDING, pause_seconds(call.tried, jitter), unknown)


def read_retry_after(given: object) -> float | None:
    """Returns the pause in seconds that `NotSent(retry_after=...)` requests, within its bounds.

    Returns None for a value that is not a duration: another type, a negative number, NaN.
    """
    match given:
        case timedelta():
            seconds: float = given.total_seconds()
        case int() | float() if not isinstance(given, bool):
            seconds = min(given, LONGEST_RETRY_AFTER_SECONDS)  # an integer may be too large for a float
        case _:
            return None
    if not seconds >= 0:
        return None
    return min(max(seconds, SHORTEST_RETRY_AFTER_SECONDS), LONGEST_RETRY_AFTER_SECONDS)


def pause_seconds(tried: int, jitter: float) -> float:
    """Returns the pause after `tried` attempts."""
    return backoff_seconds(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, tried, jitter)
