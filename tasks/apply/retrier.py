"""Retries events that were set aside, after each batch of their queue and in a share of the queue's time."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from sluice.db.apply import retries
from sluice.db.apply.retries import NextRetry, Retry
from sluice.db.connection import Session, Statement
from sluice.db.errors import Fault, needs_new_connection, whose_fault
from sluice.db.records import Outcome, RetryKind
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.kafka_io.record_types import Record
from sluice.runtime.log_pace import LogPace
from sluice.runtime.place import Place
from sluice.runtime.terminal_text import counted
from sluice.tasks.apply.blocker_watch import BlockerWatch
from sluice.tasks.apply.set_aside_rules import CommitCounts, RetryBudget, RetryLimits, kind_of
from sluice.tasks.apply.suspects import find_fault
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.registry import Registry
from sluice.tasks.letter_redriver import LETTERS, Redriven, Rerouted
from sluice.tasks.redrive import Redriver

log = structlog.get_logger("sluice.retries")

# How long an attempt waits for a lock of any kind (row, key, table, advisory). Then the attempt fails.
NO_WAIT_MILLISECONDS = 1
BLOCKED_MILLISECONDS = 100  # long enough for another session to read the blockers
BLOCKERS_EVERY = 8  # attempts between two searches for blockers, because blockers change

READ_PID = Statement("read_pid", "SELECT pg_backend_pid()")

REFUSED = "refused"
"""The result if the deployment is at fault. The other results are values of RetryKind and Outcome."""


@dataclass
class Retried:
    """The results of the retries that follow one batch."""

    results: Counter[str] = field(default_factory=Counter)
    """Result → number of attempts: applied, dead, refused, or the reason of the failure."""
    outgoing: int = 0


class Retrier:
    """Retries over the session of the worker's batches. Waits at most 0.1 s for a lock of another session."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        limits: RetryLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._redriver = Redriver(session, registry, _read_nothing)
        self._limits = limits
        self._clock = clock
        self._budgets: dict[str, RetryBudget] = {}
        self._pace = LogPace()
        self._commits = CommitCounts()

    def note_committed(self, queue: str, settled: Sequence[EventResult]) -> None:
        """Notes that a batch of the queue was committed."""
        if any(one.outcome is Outcome.APPLIED for one in settled):
            self._commits.note_committed(queue)
        for one in settled:
            if one.set_aside and self._pace.allows((queue, "set aside")):
                decoded = one.planned.decoded
                log.warning(
                    "event set aside; it is retried automatically",
                    queue=queue,
                    record=f"{decoded.topic}:{decoded.partition}:{decoded.record.offset}",
                    key=decoded.entity_key,
                    error=str(one.error)[:200],
                )

    def note_failed_batch(self, queue: str, error: Exception) -> None:
        """Notes a failed attempt at a batch of the queue."""
        if kind_of(error) is RetryKind.TIMED_OUT:
            self._commits.note_timed_out(queue)

    def run(self, queue: str) -> Retried:
        """Retries events that are due, if the queue's budget allows it. Raises nothing; failures are retried
        later.

        A kill is safe at any point: a retry is one transaction, and a second one counts a failed retry.
        """
        budget = self._budgets.setdefault(queue, RetryBudget(self._limits.share))
        started = self._clock()
        done = Retried()
        if not budget.allows(started):
            return done
        try:
            while self._clock() - started < self._limits.run_seconds:
                retry = retries.read_due_retry(self._session, queue)
                if retry is None:
                    break
                self._retry(queue, retry, done)
        except Rerouted:
            log.info("entity type re-routed; its events are retried in their new queues", queue=queue)
        except Exception as error:
            # The error occurred before the queue was locked. The batch is applied, so its message is done.
            if needs_new_connection(error):
                self._session.close()
            if self._pace.allows(queue):
                log.warning("events not retried; the worker tries again later", queue=queue, error=error)
        finally:
            budget.note(started, self._clock())
        return done

    def _retry(self, queue: str, retry: Retry, done: Retried) -> None:
        fault = None if retry.deaths is None else find_fault(retry.deaths)
        if fault is not None:
            self._bury(queue, retry, fault, done)
            return
        # An event that was tried before is retried alone. The events behind it follow after it is applied.
        limit = LETTERS if retry.attempts == 0 and retry.deaths is None else 1
        attempt = _Attempt(self._session, retry)
        retries.begin_retry(self._session, retry.letter_id, self._limits.pause_seconds(retry.attempts + 1))
        try:
            redriven = self._redriver.retry_waiting(retry, limit, attempt.begin)
        except Exception as error:
            attempt.end()
            if not attempt.has_begun:
                raise
            if needs_new_connection(error):
                self._session.close()
            self._note_failure(queue, retry, error, attempt.blockers, done)
            return
        attempt.end()
        self._note_success(queue, retry, redriven, done)

    def _note_success(self, queue: str, retry: Retry, redriven: Redriven, done: Retried) -> None:
        self._commits.forget(retry.letter_id)
        done.outgoing += redriven.outgoing
        done.results[Outcome.DEAD if redriven.blocked_by else Outcome.APPLIED] += 1
        say = log.warning if redriven.blocked_by else log.info
        say(
            "event retried",
            queue=queue,
            entity=retry.entity,
            key=retry.key,
            failed_attempts=retry.attempts,
            outcomes=dict(redriven.outcomes),
            blocked_by=redriven.blocked_by,
        )

    def _bury(self, queue: str, retry: Retry, fault: EventFault, done: Retried) -> None:
        if self._redriver.bury_waiting(retry, fault.error_class, fault.text):
            self._commits.forget(retry.letter_id)
            done.results[Outcome.DEAD] += 1
            log.warning("event died", queue=queue, entity=retry.entity, key=retry.key, error=str(fault)[:200])

    def _note_failure(
        self, queue: str, retry: Retry, error: Exception, blockers: str | None, done: Retried
    ) -> None:
        surroundings = whose_fault(error) is Fault.SURROUNDINGS
        kind = kind_of(error) if surroundings else RetryKind(retry.kind)
        timed_out = surroundings and kind is RetryKind.TIMED_OUT
        failures = retry.failures + (timed_out and self._commits.counts(queue, retry.letter_id))
        name, text = type(error).__name__, printable(str(error))[:MAX_ERROR_CHARACTERS]
        if failures >= self._limits.max_failures:
            times = counted(failures, "time")
            why = f"timed out {times} while other events of its queue were applied; last error: {text}"
            self._bury(queue, retry, EventFault(name, why[:MAX_ERROR_CHARACTERS]), done)
            return
        attempts = retry.attempts + 1
        pause = self._limits.pause_seconds(attempts)
        after = NextRetry(kind, failures, attempts, pause, name, text, blockers)
        retries.postpone_retry(self._session, retry.letter_id, after)
        done.results[kind if surroundings else REFUSED] += 1
        if self._pace.allows((queue, kind)):
            log.warning(
                "event not applied yet; it is retried",
                queue=queue,
                entity=retry.entity,
                key=retry.key,
                kind=str(kind),
                attempts=attempts,
                pause_seconds=pause,
                error=text[:200],
                blockers=blockers,
            )


class _Attempt:
    """One attempt: its limit for lock waits, and the sessions that hold the locks."""

    def __init__(self, session: Session, retry: Retry) -> None:
        self._session = session
        held = retry.kind == RetryKind.ROW_HELD and retry.attempts > 0
        looks = held and (not retry.knows_blockers or retry.attempts % BLOCKERS_EVERY == 0)
        self._watch = BlockerWatch(session) if looks else None
        self.has_begun = False
        self.blockers: str | None = None

    def begin(self) -> None:
        """Limits lock waits. Call it after the queue is locked, to limit only waits of the event."""
        self.has_begun = True
        wait = NO_WAIT_MILLISECONDS if self._watch is None else BLOCKED_MILLISECONDS
        self._session.defer(f"SET LOCAL lock_timeout = '{wait}ms'")
        if self._watch is not None:
            ((pid,),) = self._session.run(READ_PID)
            self._watch.start(pid)

    def end(self) -> None:
        """Ends the search for blockers."""
        if self._watch is not None:
            self.blockers = self._watch.end()


def _read_nothing(place: Place, offset: int) -> Record | None:
    """Fails: a retry uses the stored record. If it is not whole, the event becomes a dead letter."""
    raise AssertionError(f"{place}:{offset}: a retry reads no record from Kafka")
