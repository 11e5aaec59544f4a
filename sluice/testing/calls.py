"""Makes calls of side effects in a test: one attempt at each call. Pure, except for the provider."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias, assert_never

import msgspec

from sluice.db.records import CallState, LedgerRow
from sluice.tasks.api import Call, EffectCall, EffectDeclaration, JsonObject, NotSent, Refused
from sluice.tasks.effects.call_states import (
    Claim,
    Ending,
    NextState,
    Tried,
    judge_claim,
    judge_ending,
    read_retry_after,
)
from sluice.tasks.fold.registry import Registry

Provider: TypeAlias = Callable[[EffectCall], JsonObject | None]
Providers: TypeAlias = Provider | Mapping[str, Provider] | None
"""Makes all calls, or, in a dict, the calls of one effect each. None means the effects' own functions."""
_NO_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""The time of all actions in a world. So each call is due at once, and no provider has forgotten its key."""
_FORGOTTEN = "the provider may have forgotten the key of an attempt whose outcome is unknown"


@dataclass(frozen=True)
class CallResult:
    """One attempt at a call and the state after it."""

    call: Call
    key: str
    """The idempotency key that the provider got."""
    state: CallState
    attempt: int
    answer: JsonObject | None = None
    error: str = ""


@dataclass(frozen=True)
class _Progress:
    state: CallState = CallState.PENDING
    attempts: int = 0
    tried: int = 0
    ended_unknown: bool = False

    def as_tried(self) -> Tried:
        return Tried(self.state, self.tried, self.ended_unknown, _NO_TIME, _NO_TIME, _NO_TIME)


class CallRunner:
    """The state of each call, by its key."""

    def __init__(self, progress: Mapping[str, _Progress] | None = None) -> None:
        self._progress = dict(progress or {})

    def copy(self) -> "CallRunner":
        """Returns an independent copy of the state."""
        return CallRunner(self._progress)

    def run(self, registry: Registry, calls: Sequence[LedgerRow], providers: Providers) -> list[CallResult]:
        """Makes one attempt at each pending call that is not blocked, oldest first. Returns the attempts.

        An AssertionError of a provider is raised again. Any other error becomes the result of the call.
        """
        done: list[CallResult] = []
        blocked: set[tuple[str, str]] = set()
        for row in calls:
            progress = self._progress.get(row.effect_key, _Progress())
            policy = registry.effects[row.effect].declaration
            place = None if row.entity_key is None else (row.effect, row.entity_key)
            match judge_claim(progress.as_tried(), policy, behind=place in blocked, paused=False):
                case Claim.RUN:
                    provider = _provider(registry, row.effect, providers)
                    begun = replace(progress, attempts=progress.attempts + 1, tried=progress.tried + 1)
                    progress, result = _attempt(row, policy, begun, provider)
                    done.append(result)
                case Claim.GIVE_UP:
                    progress = replace(progress, state=CallState.UNCERTAIN)
                    result = CallResult(call_of(row), row.effect_key, progress.state, progress.attempts)
                    done.append(replace(result, error=_FORGOTTEN))
                case Claim.LEAVE:
                    pass
                case unreachable:
                    assert_never(unreachable)
            self._progress[row.effect_key] = progress
            if place is not None and _holds(progress.state, policy):
                blocked.add(place)
        return done


def _attempt(
    row: LedgerRow, policy: EffectDeclaration, begun: _Progress, provider: Provider
) -> tuple[_Progress, CallResult]:
    result = CallResult(call_of(row), row.effect_key, CallState.SUCCEEDED, begun.attempts)
    try:
        answer = provider(EffectCall(row.effect_key, msgspec.json.decode(row.args), begun.attempts))
    except AssertionError:
        raise
    except Exception as error:
        following = _judge(replace(begun, state=CallState.RUNNING), policy, error)
        after = replace(
            begun,
            state=following.state,
            tried=begun.tried if following.counts else begun.tried - 1,
            ended_unknown=begun.ended_unknown or following.ended_unknown,
        )
        return after, replace(result, state=after.state, error=f"{type(error).__name__}: {error}")
    return replace(begun, state=CallState.SUCCEEDED), replace(result, answer=answer)


def _judge(running: _Progress, policy: EffectDeclaration, error: Exception) -> NextState:
    ending, retry_after = Ending.UNKNOWN, None
    if isinstance(error, NotSent):
        ending, retry_after = Ending.NOT_SENT, read_retry_after(error.retry_after)
    elif isinstance(error, Refused):
        ending = Ending.REFUSED
    return judge_ending(running.as_tried(), policy, ending, jitter=0.0, retry_after_seconds=retry_after)


def call_of(row: LedgerRow) -> Call:
    """Returns a call as its handler yielded it: the effect by its name, the args as JSON."""
    once = row.effect_key.removeprefix(f"{row.effect}:") if row.explicit_once else None
    return Call(row.effect, once, msgspec.json.decode(row.args))


def _provider(registry: Registry, effect: str, providers: Providers) -> Provider:
    if providers is None:
        return registry.effects[effect].function
    if callable(providers):
        return providers
    if effect not in providers:
        raise ValueError(
            f"no provider for effect {effect!r}; given: {', '.join(sorted(providers)) or 'none'}"
        )
    return providers[effect]


def _holds(state: CallState, policy: EffectDeclaration) -> bool:
    """Returns True if later calls of the entity and effect wait for a call in this state."""
    ended_badly = state in (CallState.FAILED, CallState.UNCERTAIN)
    return state is CallState.PENDING or (ended_badly and policy.holds)
