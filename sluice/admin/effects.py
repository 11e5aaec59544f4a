"""Retries, reconciles and settles the calls that an operator names. Each change writes a row to `audit`.

Only `reconcile` contacts a provider, and only to ask for a result. If a worker stores an answer
meanwhile, that answer is kept.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.call_admin import (
    PAGE_ROWS,
    Chosen,
    ListedCall,
    WholeCall,
    read_all_calls,
    read_call,
    read_calls_before,
    release_calls,
    settle_call,
)
from sluice.db.connection import Session
from sluice.db.delivery.switches import read_switch
from sluice.db.records import CallState
from sluice.db.sending.calls import EFFECTS_PAUSED, store_success
from sluice.tasks.api import EffectCall
from sluice.tasks.effects.executor import holding_effects, storable
from sluice.tasks.fold.registry import EffectEntry, Registry

AnyCall: TypeAlias = ListedCall | WholeCall
Effects: TypeAlias = Mapping[str, EffectEntry]

RETRIED_FROM = (CallState.FAILED.value, CallState.UNCERTAIN.value)
MOST_BEFORE = 10  # maximum number of listed calls that a call waits for
MOVED = "its state changed meanwhile; list it again"


@dataclass(frozen=True)
class CallChange:
    """The change of one call. `after` is None if the call was not changed. `said` is the reason why
    it was not changed, or else the consequence of the change.
    """

    effect_key: str
    before: str | None
    after: str | None
    said: str


def require_call(session: Session, key: str) -> WholeCall:
    """Returns the call with all fields. Raises OperationRefused if it does not exist."""
    call = read_call(session, key)
    if call is None:
        raise OperationRefused(f"there is no call {key}")
    return call


def require_one_choice(keys: Sequence[str] | None, *, every: bool) -> None:
    """Raises OperationRefused unless exactly one of keys and --all was passed. Pure."""
    if bool(keys) == every:
        raise OperationRefused("pass KEYs or --all, not both")


def require_calls(session: Session, keys: Sequence[str] | None, chosen: Chosen | None) -> list[AnyCall]:
    """Returns the calls with these keys, or all chosen calls. Raises OperationRefused for an
    unknown key, or if not exactly one of `keys` and `chosen` is given.
    """
    require_one_choice(keys, every=chosen is not None)
    if chosen is not None:
        return list(read_all_calls(session, chosen))
    return [require_call(session, key) for key in dict.fromkeys(keys or ())]


def reasons_to_wait(
    call: WholeCall, *, before: Sequence[tuple[str, str]], paused: str | None, declared: bool
) -> list[str]:
    """Returns the reasons why a pending call is not made now; empty for a call in another state."""
    if call.state != CallState.PENDING.value:
        return []
    return [
        *([f"all calls are paused: {paused}"] if paused is not None else []),
        *([] if declared else [f"no module of SLUICE_HANDLERS declares effect {call.effect}"]),
        *(f"{key} must end first: it is {state}" for key, state in before),
        *([f"it is due in {call.due_in_seconds:.0f} s: {call.error}"] if call.due_in_seconds > 0 else []),
    ]


def read_reasons_to_wait(session: Session, registry: Registry, call: WholeCall) -> list[str]:
    """Returns the reasons why a pending call is not made now."""
    return reasons_to_wait(
        call,
        before=read_calls_before(session, call.effect_key, holding_effects(registry), limit=MOST_BEFORE),
        paused=read_switch(session, EFFECTS_PAUSED),
        declared=call.effect in registry.effects,
    )


def retry_calls(
    session: Session, calls: Sequence[AnyCall], effects: Effects, decision: Decision, *, dry_run: bool
) -> Iterator[CallChange]:
    """Makes failed or uncertain calls pending, with a fresh count of attempts. Uses transactions
    of at most PAGE_ROWS calls. Idempotent.
    """
    fitting = []
    for call in calls:
        if call.state not in RETRIED_FROM:
            yield _left(call, f"only {' and '.join(RETRIED_FROM)} calls can be retried")
        elif call.effect not in effects:
            yield _left(call, f"no module of SLUICE_HANDLERS declares effect {call.effect}")
        else:
            fitting.append(call)
    for first in range(0, len(fitting), PAGE_ROWS):
        page = fitting[first : first + PAGE_ROWS]
        released = {call.effect_key for call in page} if dry_run else _release(session, page, decision)
        for call in page:
            doubtful = call.state == CallState.UNCERTAIN.value
            yield (
                _became(call, CallState.PENDING, "it may be made twice" if doubtful else "it is due now")
                if call.effect_key in released
                else _left(call, MOVED)
            )


def reconcile_call(
    session: Session, call: WholeCall, effects: Effects, decision: Decision, *, dry_run: bool
) -> CallChange:
    """Asks the provider for the result of an uncertain call, and stores the answer. Idempotent."""
    entry = effects.get(call.effect)
    if call.state != CallState.UNCERTAIN.value:
        return _left(call, "only an uncertain call can be reconciled")
    if entry is None:
        return _left(call, f"no module of SLUICE_HANDLERS declares effect {call.effect}")
    if entry.declaration.reconcile is None:
        settle = f'`sluice effects settle {call.effect_key} --as failed --reason "…"` (or `--as succeeded`)'
        return _left(call, f"effect {call.effect} has no reconcile function: use {settle}")
    try:
        answer = entry.declaration.reconcile(EffectCall(call.effect_key, call.args or {}, call.attempt))
    # Any exception of the user's function means that the result is not known.
    except Exception as error:
        return _left(call, f"the result is not known: {type(error).__name__}: {error}")
    if answer is None:
        said = "it was certainly not made: it is due now"
        if dry_run or _release(session, [call], decision):
            return _became(call, CallState.PENDING, said)
        return _left(call, MOVED)
    if not dry_run:
        with session.transaction():
            # The answer is valid for the key, even if the call was released meanwhile.
            if not store_success(session, call.effect_key, storable(answer)):
                return _left(call, MOVED)
            _audit(session, decision, [call], CallState.SUCCEEDED)
    return _became(call, CallState.SUCCEEDED, f"the provider has made the call: {storable(answer)}")


def settle_by_hand(
    session: Session,
    call: WholeCall,
    state: CallState,
    response: str | None,
    decision: Decision,
    *,
    dry_run: bool,
) -> CallChange:
    """Marks an uncertain call as succeeded or failed. `response` is JSON text. Idempotent."""
    if call.state != CallState.UNCERTAIN.value:
        return _left(call, "only an uncertain call can be settled")
    if not dry_run:
        error = None if state is CallState.SUCCEEDED else f"settled by {decision.actor}: {decision.reason}"
        with session.transaction():
            if not settle_call(session, call, state=state, response=response, error=error):
                return _left(call, MOVED)
            _audit(session, decision, [call], state)
    return _became(call, state, decision.reason)


def _release(session: Session, calls: Sequence[AnyCall], decision: Decision) -> set[str]:
    with session.transaction():
        released = release_calls(session, calls)
        _audit(session, decision, (c for c in calls if c.effect_key in released), CallState.PENDING)
    return released


def _audit(session: Session, decision: Decision, calls: Iterable[AnyCall], state: CallState) -> None:
    insert_audits(
        session,
        decision,
        [
            (
                call.effect_key,
                as_json(
                    {"from": call.state, "to": state.value, "attempt": call.attempt, "error": call.error}
                ),
            )
            for call in calls
        ],
    )


def _left(call: AnyCall, said: str) -> CallChange:
    return CallChange(call.effect_key, call.state, None, said)


def _became(call: AnyCall, state: CallState, said: str) -> CallChange:
    return CallChange(call.effect_key, call.state, state.value, said)
