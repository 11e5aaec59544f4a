"""Applies one batch of a queue: deduplicated, folded, written and accounted for in ONE transaction."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from sluice.db.apply import guard
from sluice.db.connection import Session
from sluice.db.errors import DeploymentBroken
from sluice.db.records import Outcome
from sluice.db.values import printable
from sluice.runtime.fault_points import faults
from sluice.runtime.log_pace import LogPace
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.apply.batch_writer import BatchWriter
from sluice.tasks.apply.circuit_breaker import FAILED, SUCCEEDED, BreakerState, judge_batch
from sluice.tasks.apply.generation_writer import GenerationWriter
from sluice.tasks.apply.guard import Judgement, belongs, first_unapplied, judge
from sluice.tasks.apply.retry import retry
from sluice.tasks.apply.retry_policy import Step, Tries
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.plan import Planned, plan_event
from sluice.tasks.fold.registry import Registry

log = structlog.get_logger("sluice.apply")

MAX_REASON_CHARACTERS = 500  # of an error's text in `queues.halted_reason`
_SUCCEEDED = frozenset({Outcome.APPLIED, Outcome.STALE, Outcome.DUPLICATE})


@dataclass(slots=True)
class Batch:
    """What is left of a message after the judgement without the lock; records are planned once."""

    queue: str
    slices: list[Slice]
    planned: dict[tuple[str, int, int], Planned] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch came to: records per outcome, and slices per judgement under the lock."""

    outcomes: Counter[str]
    judgements: Counter[str]
    outgoing: int = 0
    """Rows for others: events and calls that wait now."""
    undeclared: frozenset[str] = frozenset()
    """Topics of slices that were left: this process does not declare them."""


class Applier:
    """Applies batches over one session, one at a time. `apply` may run any number of times per batch."""

    def __init__(self, session: Session, registry: Registry) -> None:
        self._session = session
        self._registry = registry
        self._generation_writer = GenerationWriter(session, registry)
        self._pace = LogPace()

    def apply(self, queue: str, slices: Sequence[Slice]) -> Applied | None:
        """Applies what fits of the slices; None where it gave up or halted the queue: the bridge sends again.

        Returns normally in every case but a bug of ours: a message may always be acknowledged.
        """
        tries = Tries()
        batch: Batch | None = None

        def attempt() -> Applied:
            nonlocal batch
            if batch is None:
                batch = self._prepare(queue, slices)
            # Idempotent: after a lost COMMIT the guard tells what was applied.
            return self._attempt(batch, singly=tries.singly)

        try:
            applied = retry(self._session, attempt, tries.pause_after, what=queue)
            for topic in sorted(applied.undeclared):
                if self._pace.allows(topic):
                    log.warning("undeclared topic left to other workers", topic=topic, queue=queue)
            return applied
        except Exception as error:
            if tries.step is Step.HALT:
                self._halt(queue, error)
            else:
                log.warning(
                    "batch aborted; the bridge will resend it",
                    queue=queue,
                    error=str(error),
                    attempts=tries.attempts,
                )
            return None

    def _prepare(self, queue: str, slices: Sequence[Slice]) -> Batch:
        """Drops what is applied, without the lock, so that a storm of repeats costs no decoding."""
        lanes = guard.read_lanes(self._session, queue)
        batch = Batch(queue, [])
        for piece in slices:
            applied = lanes.applied.get((piece.topic, piece.partition), -1)
            if piece.epoch == lanes.epoch and piece.last <= applied:
                continue
            batch.slices.append(piece)
            # Of a topic that this code does not declare nothing is decoded; its slice is left under the lock.
            topic = self._registry.topics.get(piece.topic)
            if topic is None or piece.epoch != lanes.epoch:
                continue
            for record in piece.records[first_unapplied([r.offset for r in piece.records], applied) :]:
                decoded = decode(topic, piece.topic_id, piece.partition, record)
                place = (piece.topic, piece.partition, record.offset)
                batch.planned[place] = plan_event(self._registry, topic, decoded)
        return batch

    def _attempt(self, batch: Batch, *, singly: bool) -> Applied:
        judgements: Counter[str] = Counter()
        undeclared: set[str] = set()
        if not batch.slices:
            return Applied(Counter(), judgements)
        with self._session.transaction():
            row = guard.lock_queue(self._session, batch.queue)
            if row is None:
                raise DeploymentBroken(f"queue {batch.queue} has no row: run `sluice init`")
            faults.reach("apply.begun")
            lanes = guard.read_lanes(self._session, batch.queue)
            applied = dict(lanes.applied)
            events: list[Planned] = []
            for piece in batch.slices:
                lane = (piece.topic, piece.partition)
                before = applied.get(lane, -1)
                judgement = judge(
                    epoch=piece.epoch,
                    prev=piece.prev,
                    last=piece.last,
                    current_epoch=lanes.epoch,
                    applied_offset=before,
                )
                if judgement is Judgement.NEXT and not _belongs(piece, batch.queue, lanes):
                    judgement = Judgement.MISROUTED
                    log.warning("slice misrouted", queue=batch.queue, topic=piece.topic)
                if judgement is Judgement.NEXT and piece.topic not in self._registry.topics:
                    # Left, not refused: its lane waits for a process that declares it, the others go on.
                    judgement = Judgement.UNDECLARED
                    undeclared.add(piece.topic)
                judgements[judgement.value] += 1
                if judgement is Judgement.NEXT:
                    events += self._events(batch, piece, before)
                    applied[lane] = piece.last
            if not events:
                return Applied(Counter(), judgements, undeclared=frozenset(undeclared))
            snapshot = self._generation_writer.read_projection_snapshot()
            writer = BatchWriter(
                self._session,
                self._registry,
                queue=batch.queue,
                entity=batch.queue.rpartition(".")[0],
                generations=snapshot.live,
            )
            settled = writer.settle(events, singly=singly)
            verdict = self._judge_deaths(row, settled)
            steps = _steps(settled, applied)
            assert lanes.epoch is not None
            guard.advance_lanes(self._session, batch.queue, lanes.epoch, steps)
            if row != guard.QueueRow(None, verdict.failure_window, verdict.accepted_deaths):
                guard.update_queue(
                    self._session,
                    batch.queue,
                    failure_window=verdict.failure_window,
                    accepted_deaths=verdict.accepted_deaths,
                )
            moved = {(step.topic, step.partition): step.applied_offset for step in steps}
            self._generation_writer.sync(snapshot, batch.queue, lanes.applied, moved, settled)
            faults.reach("apply.before_commit")
        faults.reach("apply.committed")
        if row.halted_reason is not None:
            log.warning("queue goes on", queue=batch.queue, was_halted_for=row.halted_reason)
        outcomes: Counter[str] = Counter(s.outcome for s in settled if s.outcome)
        return Applied(
            outcomes, judgements, sum(s.outgoing for s in settled), undeclared=frozenset(undeclared)
        )

    def _events(self, batch: Batch, piece: Slice, applied_offset: int) -> list[Planned]:
        unapplied = piece.records[first_unapplied([r.offset for r in piece.records], applied_offset) :]
        return [self._planned(batch, piece, record.offset) for record in unapplied]

    def _planned(self, batch: Batch, piece: Slice, offset: int) -> Planned:
        place = (piece.topic, piece.partition, offset)
        if place not in batch.planned:
            # Postgres was moved back, or re-routed, between the judgements: rare, and worth no cleverness.
            record = next(r for r in piece.records if r.offset == offset)
            topic = self._registry.topics[piece.topic]
            decoded = decode(topic, piece.topic_id, piece.partition, record)
            batch.planned[place] = plan_event(self._registry, topic, decoded)
        return batch.planned[place]

    def _judge_deaths(self, row: guard.QueueRow, settled: Sequence[EventResult]) -> BreakerState:
        tried = (s for s in settled if not s.known and (s.outcome in _SUCCEEDED or self._counts_as_death(s)))
        results = "".join(FAILED if s.outcome is Outcome.DEAD else SUCCEEDED for s in tried)
        verdict = judge_batch(row.failure_window, results, row.accepted_deaths)
        if verdict.halts:
            last = next(s.error for s in reversed(settled) if s.outcome is Outcome.DEAD)
            deaths = verdict.failure_window.count(FAILED)
            raise DeploymentBroken(
                f"{deaths} of the last {len(verdict.failure_window)} events died, lately of {last}"
            )
        return verdict

    def _counts_as_death(self, settled: EventResult) -> bool:
        topic = self._registry.topics[settled.planned.decoded.topic]
        return settled.outcome is Outcome.DEAD and topic.on_failure != "skip"

    def _halt(self, queue: str, error: Exception) -> None:
        reason = printable(f"{type(error).__name__}: {error}")[:MAX_REASON_CHARACTERS]
        try:
            if guard.halt_queue(self._session, queue, reason):
                log.error("queue halted", queue=queue, reason=reason)
        except Exception as second:
            # Not marked, so not slowed down: the bridge sends the batch again, and it is tried again.
            log.error("queue could not be halted", queue=queue, reason=reason, error=str(second))
            self._session.close()


def _belongs(piece: Slice, queue: str, lanes: guard.Lanes) -> bool:
    if lanes.topic_ids.get(piece.topic) != piece.topic_id:
        return False
    return belongs((record.key for record in piece.records), queue, shards=lanes.shards)


def _steps(settled: Sequence[EventResult], applied: dict[tuple[str, int], int]) -> list[guard.LaneStep]:
    counts: dict[tuple[str, int], Counter[str]] = {}
    for one in settled:
        decoded = one.planned.decoded
        count = counts.setdefault((decoded.topic, decoded.partition), Counter())
        if one.outcome is not None:
            count[one.outcome] += 1
        count["call_conflict"] += one.call_conflicts
    return [guard.LaneStep(*lane, applied[lane], count) for lane, count in counts.items()]
