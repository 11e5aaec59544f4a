"""Applies the batches of a queue. ONE transaction deduplicates, folds, writes and accounts for a batch."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import structlog

from sluice.db.apply import guard
from sluice.db.apply.handler_deaths import forget_deaths
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken
from sluice.db.records import Outcome
from sluice.db.values import printable
from sluice.runtime.fault_points import faults
from sluice.runtime.log_pace import LogPace
from sluice.runtime.place import Place
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.apply.chunks import Chunk, Claims, MessageEvents, reached
from sluice.tasks.apply.circuit_breaker import FAILED, SUCCEEDED, BreakerState, judge_batch
from sluice.tasks.apply.death_log import DeathLog, describe_place
from sluice.tasks.apply.failure_counts import FailureCounts
from sluice.tasks.apply.generation_stops import GenerationBroken, stop_broken
from sluice.tasks.apply.generation_writer import GenerationWriter
from sluice.tasks.apply.guard import Judgement, is_of_queue, judge
from sluice.tasks.apply.recent_lanes import RecentLanes
from sluice.tasks.apply.retrier import Retried, Retrier
from sluice.tasks.apply.retry import retry
from sluice.tasks.apply.retry_policy import PATIENCE_SECONDS, Step, Tries, counts
from sluice.tasks.apply.set_aside import set_aside
from sluice.tasks.apply.set_aside_rules import RetryLimits
from sluice.tasks.apply.settler import Settler
from sluice.tasks.apply.suspects import passed
from sluice.tasks.apply.topic_modes import TopicModes
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.plan import Planned
from sluice.tasks.fold.registry import Registry

log = structlog.get_logger("sluice.apply")

MAX_REASON_CHARACTERS = 500  # of an error's text in `queues.halted_reason`
_FAILURES = frozenset({Outcome.DEAD, Outcome.CONFLICT})
_SUCCEEDED = frozenset({Outcome.APPLIED, Outcome.STALE, Outcome.DUPLICATE})


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of a batch: the number of records per outcome, and of slices per judgement of the guard."""

    outcomes: Counter[str]
    judgements: Counter[str]
    outgoing: int = 0
    """Number of outbox events and calls that were stored and now wait to be sent."""
    undeclared: frozenset[str] = frozenset()
    """Topics of slices that were not applied because this process does not declare the topic."""
    is_whole: bool = True
    """True if this worker can apply nothing more of the message."""
    without_id: Counter[str] = field(default_factory=Counter)
    """Topic → number of events without an id. Topics without such events are omitted."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """Result → number of attempts at events that were set aside."""
    ways: Mapping[str, int] = field(default_factory=dict)
    """Way → number of transactions that settled events in this way. Contains those of aborted batches."""

    def plus(self, later: "Applied") -> "Applied":
        """Returns the sum of this result and that of a later chunk of the same message."""
        return Applied(
            self.outcomes + later.outcomes,
            self.judgements + later.judgements,
            self.outgoing + later.outgoing,
            self.undeclared | later.undeclared,
            later.is_whole,
            self.without_id + later.without_id,
        )


class Applier:
    """Applies batches over one session, one at a time. `apply` is idempotent per batch."""

    def __init__(self, session: Session, registry: Registry, limits: RetryLimits = RetryLimits()) -> None:
        """`limits` are for the retries of events that cannot be applied because of servers or locks."""
        self._session = session
        self._registry = registry
        self._settler = Settler(session, partial(set_aside, limits=limits))
        self._retrier = Retrier(session, registry, limits)
        self._generation_writer = GenerationWriter(session, registry)
        self._modes = TopicModes(session, registry)
        self._failures, self._deaths = FailureCounts(session), DeathLog()
        self._recent = RecentLanes()
        self._pace = LogPace()

    def apply(self, queue: str, slices: Sequence[Slice]) -> Applied | None:
        """Applies the slices in chunks (usually one), as many as the time allows.

        Then retries events of the queue that were set aside. Without slices, it only retries. Returns None if
        it gave up or halted the queue before it applied an event. The bridge then sends the batch again.
        Raises only if Sluice has a bug, so the caller may always acknowledge the message.
        """
        message = MessageEvents(self._registry, slices, topics=self._modes.topics)
        total = self._apply_chunks(queue, message)
        retried = self._retrier.run(queue) if message.retry_is_due else Retried()
        if total is None:
            return None
        for topic in sorted(total.undeclared):
            if self._pace.allows(topic):
                log.warning("undeclared topic left to other workers", topic=topic, queue=queue)
        return replace(
            total,
            outgoing=total.outgoing + retried.outgoing,
            retries=retried.results,
            ways=self._settler.take_ways(),
        )

    def _apply_chunks(self, queue: str, message: MessageEvents) -> Applied | None:
        started = time.monotonic()
        total = Applied(Counter(), Counter())
        while True:
            applied = self._apply_chunk(queue, message, started)
            if applied is None:
                return total if total.outcomes else None
            total = total.plus(applied)
            # The bridge sends the rest again.
            if applied.is_whole or time.monotonic() - started > PATIENCE_SECONDS:
                return total

    def _apply_chunk(self, queue: str, message: MessageEvents, started: float) -> Applied | None:
        tries = Tries(contains=bool(self._registry.revisions))
        chunk: Chunk | None = None

        def attempt() -> Applied:
            nonlocal chunk
            if chunk is None:
                self._modes.follow(message.epochs)
                # Without the lock, only to avoid decoding records that were applied before.
                lanes = self._recent.get(queue)
                if lanes is None or not message.follows(lanes):
                    lanes = guard.read_lanes(self._session, queue)
                chunk = message.next_chunk(lanes)
            # Idempotent: if a COMMIT took effect and its answer was lost, the guard skips the records.
            return self._attempt(queue, message, chunk, tries)

        def pause_after(error: Exception, _elapsed_seconds: float, jitter: float) -> float | None:
            nonlocal chunk
            self._recent.forget(queue)
            if isinstance(error, GenerationBroken):
                stop_broken(self._session, queue, error)
                return 0.0
            if self._settler.note_failed(queue, error):
                return 0.0
            if chunk is not None and chunk.has_begun and counts(error):
                self._retrier.note_failed_batch(queue, error)
                self._failures.count(queue, chunk, error)
                chunk = None
            return tries.pause_after(error, time.monotonic() - started, jitter)

        try:
            return retry(self._session, attempt, pause_after, what=queue)
        except Exception as error:
            if tries.step is Step.HALT:
                self._halt(queue, error)
            else:
                log.warning(
                    "batch aborted; the bridge will send the batch again",
                    queue=queue,
                    error=error,
                    attempts=tries.attempts,
                )
            return None

    def _attempt(self, queue: str, message: MessageEvents, chunk: Chunk, tries: Tries) -> Applied:
        chunk.has_begun = False
        if not chunk.slices:
            return Applied(Counter(), Counter())
        with self._session.transaction():
            row, lanes = guard.lock_lanes(self._session, queue)
            if row is None:
                raise DeploymentBroken(f"queue {queue} has no row: run `sluice init`")
            faults.reach("apply.begun")
            claims = self._judge(queue, message, chunk, lanes)
            events = [event for _, planned in claims.next for event in planned]
            settled: list[EventResult] = []
            if events:
                chunk.has_begun, chunk.failures = True, lanes.failures
                settled = self._settle(queue, row, lanes, claims, events, tries)
                faults.reach("apply.before_commit")
        faults.reach("apply.committed")
        self._settler.note_committed(queue)
        self._recent.note(queue, lanes, reached(claims.next, len(settled)))
        message.retry_is_due = lanes.retry_is_due
        message.leave(claims.left)
        self._retrier.note_committed(queue, settled)
        self._deaths.note_committed(queue, settled)
        if settled and row.halted_reason is not None:
            log.warning("queue continues", queue=queue, was_halted_for=row.halted_reason)
        return Applied(
            Counter([s.outcome for s in settled if s.outcome]),
            claims.judgements,
            sum([s.outgoing for s in settled]),
            frozenset(claims.undeclared),
            is_whole=not chunk.is_cut and len(settled) == len(events),
            without_id=Counter(_without_id(settled)),
        )

    def _judge(self, queue: str, message: MessageEvents, chunk: Chunk, lanes: guard.Lanes) -> Claims:
        claims = Claims()
        applied = dict(lanes.applied)
        for piece in chunk.slices:
            lane = (piece.topic, piece.partition)
            before = applied.get(lane, -1)
            judgement = judge(
                epoch=piece.epoch,
                prev=piece.prev,
                last=piece.last,
                current_epoch=lanes.epoch,
                applied_offset=before,
            )
            if judgement is Judgement.NEXT and not is_of_queue(piece, queue, lanes):
                judgement = Judgement.MISROUTED
                log.warning("slice misrouted", queue=queue, topic=piece.topic)
            if judgement is Judgement.NEXT and piece.topic not in self._registry.topics:
                # The slice is not refused: its lane waits for a process that declares the topic.
                judgement = Judgement.UNDECLARED
                claims.undeclared.add(piece.topic)
            claims.judgements[judgement.value] += 1
            if judgement is Judgement.NEXT:
                claims.next.append((piece, message.events_of(piece, before)))
                applied[lane] = piece.last
            elif judgement is not Judgement.REPEATED:
                claims.left.append(piece)
        return claims

    def _settle(
        self,
        queue: str,
        row: guard.QueueRow,
        lanes: guard.Lanes,
        claims: Claims,
        events: Sequence[Planned],
        tries: Tries,
    ) -> list[EventResult]:
        """Settles the events from the first on, usually all of them, and advances their lanes."""
        snapshot = self._generation_writer.read_projection_snapshot(queue)
        settled = self._settler.settle(queue, lanes, snapshot, events, tries)
        verdict = self._judge_deaths(row, settled)
        moved = reached(claims.next, len(settled))
        assert lanes.epoch is not None
        guard.advance_lanes(self._session, queue, lanes.epoch, _steps(claims, settled, lanes.applied, moved))
        after = guard.QueueRow(None, verdict.failure_window, verdict.accepted_deaths)
        guard.update_queue(self._session, queue, row, after)
        if lanes.failures is not None:
            self._failures.note_success(queue, lanes.failures)
        if lanes.deaths:
            over = passed(lanes.deaths, lanes.topic_ids, {**lanes.applied, **moved})
            forget_deaths(self._session, queue, over)
        self._generation_writer.sync(snapshot, queue, lanes.applied, moved, settled, row.failure_window)
        return settled

    def _judge_deaths(self, row: guard.QueueRow, settled: Sequence[EventResult]) -> BreakerState:
        tried = (
            s for s in settled if not s.known and (s.outcome in _SUCCEEDED or self._counts_as_failure(s))
        )
        results = "".join(FAILED if s.outcome in _FAILURES else SUCCEEDED for s in tried)
        verdict = judge_batch(row.failure_window, results, row.accepted_deaths)
        if verdict.halts:
            last = next(s for s in reversed(settled) if s.outcome in _FAILURES and not s.known)
            failures = verdict.failure_window.count(FAILED)
            raise DeploymentBroken(
                f"{failures} of the last {len(verdict.failure_window)} events failed or conflicted, most"
                f" recently by {last.error}{describe_place(last)}"
            )
        return verdict

    def _counts_as_failure(self, settled: EventResult) -> bool:
        topic = self._registry.topics[settled.planned.decoded.topic]
        return settled.outcome in _FAILURES and topic.on_failure != "skip"

    def _halt(self, queue: str, error: Exception) -> None:
        reason = printable(f"{type(error).__name__}: {error}")[:MAX_REASON_CHARACTERS]
        try:
            if guard.halt_queue(self._session, queue, reason):
                log.error("queue halted", queue=queue, reason=reason)
        except Exception as second:
            # The queue is not marked as halted, so the bridge sends the batch again without a delay.
            log.error("queue could not be halted", queue=queue, reason=reason, error=second)
        # Prepared plans may ignore a later repair, for example of a rule. A new connection has no such plans.
        self._session.close()


def _without_id(settled: Iterable[EventResult]) -> list[str]:
    """Returns the topic of each event without an id."""
    without = [one for one in settled if one.planned.decoded.event_id is None and one.outcome]
    return [one.planned.decoded.topic for one in without if one.planned.decoded.lacks_id]


def _steps(
    claims: Claims, settled: Sequence[EventResult], before: Mapping[Place, int], moved: Mapping[Place, int]
) -> list[guard.LaneStep]:
    counts: dict[Place, Counter[str]] = {lane: Counter() for lane in moved}
    left = iter(settled)
    for piece, events in claims.next:
        if not (mine := list(islice(left, len(events)))):
            break
        count = counts[piece.topic, piece.partition]
        count.update([one.outcome for one in mine if one.outcome is not None])
        count["without_id"] += len(_without_id(mine))
        count["call_conflict"] += sum([one.call_conflicts for one in mine])
    return [guard.LaneStep(*lane, before.get(lane), moved[lane], count) for lane, count in counts.items()]
