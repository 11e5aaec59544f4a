"""The common parts of redrives of letters: locking the entity's queue, reading records, retrying."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sluice.db.apply import guard
from sluice.db.apply.dead_letters import Letter
from sluice.db.connection import Session
from sluice.db.delivery import progress
from sluice.db.errors import DeploymentBroken
from sluice.kafka_io.whole_record import ReadWhole
from sluice.runtime.handler_watch import timed
from sluice.tasks.apply.chunks import HANDLER_BUDGET_SECONDS
from sluice.tasks.apply.generation_stops import GenerationBroken, stop_broken
from sluice.tasks.apply.retry import retry
from sluice.tasks.apply.retry_policy import Tries
from sluice.tasks.apply.topic_modes import TopicModes
from sluice.tasks.events.decode import Decoded, decode
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.tasks.fold.plan import Planned
from sluice.tasks.fold.registry import Registry
from sluice.tasks.letter_records import (
    LetterRecords,
    NotRedrivable,
    WholeRecordNeeded,
    readable_letters,
    topic_of,
)

T = TypeVar("T")

LETTERS = 200  # per transaction; the queue is locked meanwhile


class Rerouted(Exception):
    """Raised if the entity type was re-routed between reading the routing and locking the queue. Retry."""


@dataclass
class Redriven:
    """The result of one or more transactions."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Outcome → number of letters that were tried."""
    blocked_by: str | None = None
    """The reason why a letter died again. The letters behind it wait. None if no letter died."""
    unparked: bool = False
    outgoing: int = 0
    """Number of outbox events and calls that were written."""
    holds: str | None = None
    """The reason why the letters behind a dead letter wait. None if no letter waits."""


class LetterRedriver:
    """Redrives over one session, one entity at a time. Workers continue between the transactions."""

    def __init__(self, session: Session, registry: Registry, read_whole: ReadWhole) -> None:
        self._session = session
        self._records = LetterRecords(read_whole)
        self._registry = registry
        self._modes = TopicModes(session, registry)
        self._queue = ""
        """The queue that was locked last."""

    def _without_broken(self, attempt: Callable[[], T]) -> T:
        """Makes the attempt. If a generation is broken, stops the generation and repeats the attempt."""
        while True:
            try:
                return attempt()
            except GenerationBroken as broken:
                stop_broken(self._session, self._queue, broken)

    def _choose(self, letters: Sequence[Letter]) -> Sequence[Letter]:
        return self._records.choose(readable_letters(letters))

    def _provide(self, attempt: Callable[[], Redriven]) -> Redriven:
        try:
            return self._records.provide(attempt)
        except NotRedrivable as error:
            return Redriven(blocked_by=str(error))

    def _plan_in_time(self, letters: Sequence[Letter], plan: Callable[[Decoded], Planned]) -> list[Planned]:
        """Plans the first letters within a time budget. The transaction is idle while handlers run."""
        until = time.monotonic() + HANDLER_BUDGET_SECONDS
        events: list[Planned] = []
        for letter in letters:
            if events and time.monotonic() >= until:
                break
            events.append(plan(self._decode(letter)))
        return events

    def _decode(self, letter: Letter) -> Decoded:
        topic = self._modes.topics[topic_of(self._registry, letter).name]
        return decode(topic, letter.topic_id, letter.partition, self._records.record_of(letter))

    def _lock(self, entity: str, key: str) -> str:
        """Locks the entity's queue. Returns its name."""
        before = progress.read_routing(self._session, entity)
        if before is None:
            raise DeploymentBroken(f"entity type {entity} has no row: run `sluice init`")
        queue = queue_name(entity, shard_of(key.encode(), before[0]))
        if not guard.lock_queue(self._session, queue):
            raise DeploymentBroken(f"queue {queue} has no row: run `sluice init`")
        if progress.read_routing(self._session, entity) != before:
            raise Rerouted(f"{entity} was re-routed")
        self._modes.follow_entity(entity, before[1])
        self._queue = queue
        return queue

    def _retry(self, what: str, attempt: Callable[[bool], T]) -> T:
        tries = Tries(contains=bool(self._registry.revisions))

        def pause_after(error: Exception, elapsed_seconds: float, jitter: float) -> float | None:
            if isinstance(error, WholeRecordNeeded):
                return None
            # Not a failure: the next attempt reads the new routing.
            return 0.0 if isinstance(error, Rerouted) else tries.pause_after(error, elapsed_seconds, jitter)

        with timed(what):
            return retry(
                self._session,
                lambda: self._without_broken(lambda: attempt(tries.singly)),
                pause_after,
                what=what,
            )
