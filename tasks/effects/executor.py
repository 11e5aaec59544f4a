"""Makes one call of a side effect: claims it, calls the provider outside of transactions, stores the answer.

If the process ends before it stores the answer, the claim expires. The provider's result is then unknown. The
declaration of the effect decides if the call is repeated with the same key, or if an operator must decide.
"""

import faulthandler
import random
import reprlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, assert_never

import msgspec
import structlog

from sluice.db.connection import Session
from sluice.db.errors import Fault, whose_fault
from sluice.db.records import CallState
from sluice.db.sending import calls
from sluice.db.sending.calls import CallRow
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.runtime.fault_points import faults
from sluice.runtime.log_pace import LogPace
from sluice.runtime.worker_stop import is_worker_stop
from sluice.tasks.api import EffectCall, NotSent, Refused
from sluice.tasks.apply.retry import retry
from sluice.tasks.effects.call_states import (
    AGAIN_AFTER_SECONDS,
    CLAIM_MARGIN_SECONDS,
    LEFT_AFTER_SECONDS,
    Claim,
    Ending,
    NextState,
    Tried,
    judge_claim,
    judge_ending,
    read_retry_after,
)
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.registry import EffectEntry, Registry
from sluice.tasks.installation import formats

log = structlog.get_logger("sluice.effects")

T = TypeVar("T")

# Storing an answer is retried for this long. A success counts even after the claim has expired.
STORE_PATIENCE_SECONDS = 20.0
STORE_PAUSE_SECONDS = 0.5  # each retry writes one row, so no backoff is needed
# The call's own time-out cannot interrupt every C library. After this further time, the process is ended.
HARD_LIMIT_SECONDS = CLAIM_MARGIN_SECONDS - 5.0
STDERR = 2  # Celery puts an object without a file descriptor in the place of sys.stderr
EXPIRED_ROWS = 100  # per transaction


class CallTimedOut(BaseException):
    """Raised when a call's time is over. A BaseException, so that no client of a provider catches it."""


class Executor:
    """Runs calls, one at a time, over one session."""

    def __init__(self, session: Session, registry: Registry) -> None:
        self._session = session
        self._registry = registry
        self._holding = holding_effects(registry)
        self._pace = LogPace()

    def run(self, effect_key: str) -> None:
        """Makes the call if it is due. Idempotent, even if several processes run it at the same time.

        Raises errors of Postgres if it cannot claim the call. The call is then not made.
        """
        row = self._claim(effect_key)
        if row is None:
            return
        faults.reach("effect.claimed")
        entry = self._registry.effects[row.effect]
        try:
            answer = _call(entry, row)
        except NotSent as error:
            self._fail(row, entry, Ending.NOT_SENT, error, self._retry_after(row, error))
        except Refused as error:
            self._fail(row, entry, Ending.REFUSED, error)
        except BaseException as error:
            if is_worker_stop(error):
                raise
            self._fail(row, entry, Ending.UNKNOWN, error)
        else:
            faults.reach("effect.answered")
            answer_json = storable(answer)
            self._store(effect_key, lambda: calls.store_success(self._session, row.effect_key, answer_json))
            faults.reach("effect.stored")
            log.info("call succeeded", effect=row.effect, key=row.effect_key, attempt=row.attempt)

    def _claim(self, effect_key: str) -> CallRow | None:
        """Marks the attempt as running and commits. Returns the call; None if it must not be made now."""
        session = self._session
        with session.transaction():
            row = calls.lock_call(session, effect_key)
            entry = None if row is None else self._registry.effects.get(row.effect)
            if row is None:
                return None
            if entry is None or row.format > formats.NEWEST_FORMAT:
                self._leave(row)
                return None
            policy = entry.declaration
            behind, paused = calls.lock_order(session, row, self._holding)
            match judge_claim(_tried(row), policy, behind=behind, paused=paused):
                case Claim.RUN:
                    calls.begin_attempt(session, effect_key, policy.timeout_seconds + CLAIM_MARGIN_SECONDS)
                case Claim.LEAVE:
                    return None
                case Claim.GIVE_UP:
                    error = "the provider may have forgotten the key of an attempt whose outcome is unknown"
                    _store_next_state(session, row, NextState(CallState.UNCERTAIN), error)
                    log.warning("call uncertain", effect=row.effect, key=effect_key, reason=error)
                    return None
                case unreachable:
                    assert_never(unreachable)
        attempt = row.attempt % calls.LARGEST_ATTEMPT + 1
        return row._replace(state=CallState.RUNNING, attempt=attempt, tried=row.tried + 1)

    def _leave(self, row: CallRow) -> None:
        """Leaves a call to a process that declares the effect or reads the format."""
        calls.return_call(self._session, row.effect_key, AGAIN_AFTER_SECONDS - LEFT_AFTER_SECONDS)
        if self._pace.allows(row.effect):
            log.warning(
                "call left to another worker", effect=row.effect, key=row.effect_key, format=row.format
            )

    def _retry_after(self, row: CallRow, error: NotSent) -> float | None:
        """Returns the pause that the provider requested. Logs and ignores a value that is no duration."""
        seconds = read_retry_after(error.retry_after)
        ignored = seconds is None and error.retry_after is not None
        if ignored and self._pace.allows((row.effect, "retry_after")):
            log.warning(
                "retry_after ignored; pass seconds or a timedelta that is not negative",
                effect=row.effect,
                key=row.effect_key,
                retry_after=reprlib.repr(error.retry_after),
            )
        return seconds

    def _fail(
        self,
        row: CallRow,
        entry: EffectEntry,
        ending: Ending,
        error: BaseException,
        retry_after_seconds: float | None = None,
    ) -> None:
        following = judge_ending(
            _tried(row),
            entry.declaration,
            ending,
            jitter=random.random(),
            retry_after_seconds=retry_after_seconds,
        )
        asked = "" if following.counts else f", retry after {following.due_in_seconds:g} s"
        text = f"{ending.value}{asked}: {EventFault.of(error)}"[:MAX_ERROR_CHARACTERS]
        counted = self._store(row.effect_key, lambda: _store_next_state(self._session, row, following, text))
        log.warning(
            "call not made" if ending is Ending.NOT_SENT else "call failed",
            effect=row.effect,
            key=row.effect_key,
            attempt=row.attempt,
            error=text,
            state=following.state if counted else "already changed by another process",
        )

    def _store(self, effect_key: str, store: Callable[[], T]) -> T:
        return retry(self._session, store, pause_after_store, what=effect_key)


def pause_after_store(error: Exception, elapsed_seconds: float, _jitter: float) -> float | None:
    """Returns the pause before the next attempt to store an answer. None if a retry would not help."""
    patient = elapsed_seconds <= STORE_PATIENCE_SECONDS
    return STORE_PAUSE_SECONDS if patient and whose_fault(error) is Fault.SURROUNDINGS else None


def expire_claims(session: Session, registry: Registry) -> int:
    """Ends expired attempts that stored no answer, with an unknown result. Returns their number. Idempotent.

    Calls of an effect that this process does not declare are left to a process that declares it, because the
    next state depends on the declaration.
    """
    with session.transaction():
        expired = calls.lock_expired(
            session, EXPIRED_ROWS, sorted(registry.effects), newest_format=formats.NEWEST_FORMAT
        )
        for row in expired:
            policy = registry.effects[row.effect].declaration
            following = judge_ending(_tried(row), policy, Ending.UNKNOWN, jitter=random.random())
            error = "the process that made the call ended without storing its result"
            _store_next_state(session, row, following, error)
            log.warning("lease ended", effect=row.effect, key=row.effect_key, state=following.state)
    return len(expired)


def holding_effects(registry: Registry) -> list[str]:
    """Returns the effects whose failed or uncertain calls hold back later calls of the entity."""
    return sorted(name for name, entry in registry.effects.items() if entry.declaration.holds)


def storable(answer: Any) -> str:
    """Returns any answer as JSON text. Never raises, because the call was made."""
    try:
        return printable(msgspec.json.encode(answer).decode()).replace("\\u0000", "\\ufffd")
    except Exception:
        # reprlib also handles values that are nested too deep, and objects whose methods raise.
        return msgspec.json.encode({"repr": printable(reprlib.repr(answer))}).decode()


def effect_call(row: CallRow) -> EffectCall:
    """Returns the argument of the effect function."""
    return EffectCall(row.effect_key, msgspec.json.decode(row.args or "{}"), row.attempt)


def _call(entry: EffectEntry, row: CallRow) -> Any:
    seconds = entry.declaration.timeout_seconds
    with _hard_limit(seconds + HARD_LIMIT_SECONDS), _time_limit(seconds):
        return entry.function(effect_call(row))


@contextmanager
def _hard_limit(seconds: float) -> Iterator[None]:
    """Ends this process if the block does not return before the claim of the call expires.

    A C thread of the interpreter ends the process. So no lock is needed that a library call may hold, and
    this limit works in every Celery pool. The limit comes from the declaration of the effect in this code;
    limits in the message are ignored.
    """
    faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupts the block after the time-out. Must run in the main thread.

    Celery's soft limit is not used, because it could interrupt the transaction that stores the answer.
    """

    def interrupt(*_: object) -> None:
        raise CallTimedOut(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _store_next_state(session: Session, row: CallRow, following: NextState, error: str) -> bool:
    return calls.store_failure(
        session,
        row.effect_key,
        row.attempt,
        from_state=row.state,
        state=following.state,
        error=error,
        ended_unknown=following.ended_unknown,
        due_in_seconds=following.due_in_seconds,
        counts=following.counts,
    )


def _tried(row: CallRow) -> Tried:
    return Tried(
        CallState(row.state), row.tried, row.ended_unknown, row.first_attempt_at, row.due_at, row.now
    )
