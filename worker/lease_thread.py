"""The thread that holds this worker's leases in Postgres, and exchanges them with the consuming loop.

Thread and loop exchange two values, each replaced as a whole: `wanted`, the queues that the loop should
consume, and `consumed`, the queues that it consumes. The thread releases a lock only after the loop has read
that the queue is no longer wanted and has stopped consuming it. So no worker takes a queue from which this
worker may still pop.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import psycopg2
import structlog

from sluice.db.connection import Session
from sluice.db.delivery.leases import (
    Heartbeat,
    end_lease,
    join_workers,
    read_lease_snapshot,
    try_lease,
    write_heartbeat,
)
from sluice.db.errors import Fault, whose_fault
from sluice.runtime.backoff import Backoff
from sluice.tasks.installation import formats
from sluice.worker.activity import Activity
from sluice.worker.lease_assignor import decide_moves, may_yield
from sluice.worker.queue_yields import QueueYields

log = structlog.get_logger("sluice.leases")

TURN_SECONDS = 0.5  # the longest time until a started or ended worker is detected; costs one statement
SHORT_SECONDS = 0.1  # the same for a worker that waits for queues which others give back
HEARTBEAT_SECONDS = 1.0  # the maximum age of the figures of `sluice workers`; costs one row version
# A loop that neither works nor ticks has no broker or is stuck. Then other workers should have its queues.
SILENT_SECONDS = 3.0
STUCK_SECONDS = 60.0  # in one batch, which stops by itself after 20 seconds
END_SECONDS = 5.0  # for the thread, when the worker ends: a statement may be in flight


class View(NamedTuple):
    """A set of queues, with the version of `wanted` that it follows."""

    version: int
    queues: frozenset[str]


def stuck_seconds(handler_seconds: float) -> float:
    """Returns the limit for the time of a batch. `handler_seconds`: the limit for the handlers of an event.

    A batch starts no event after 20 seconds. The handlers of its last event may run a second time, with rows.
    """
    return max(STUCK_SECONDS, 2 * handler_seconds + 40.0)


def is_responsive(
    *, now: float, seen_at: float, busy_since: float | None, stuck_after: float = STUCK_SECONDS
) -> bool:
    """Returns True if the loop may keep its queues. `seen_at`: the time of its last tick or batch end."""
    if busy_since is not None:
        return now - busy_since < stuck_after
    return now - seen_at < SILENT_SECONDS


@dataclass
class LeaseThread:
    """Holds the leases. A separate thread runs `run` and calls `wanted_changed`; the loop calls the rest."""

    session: Session
    node: str
    activity: Activity
    wanted_changed: Callable[[], None]
    declared: Mapping[str, Iterable[str]]
    """Entity type → topics that this worker's code declares. No queue of another entity type is taken."""
    yields: QueueYields = field(default_factory=QueueYields)
    rng: Random = field(default_factory=Random)
    clock: Callable[[], float] = time.monotonic
    stuck_after: float = STUCK_SECONDS

    def __post_init__(self) -> None:
        self.wanted = View(0, frozenset())
        self.broker_is_away = False  # set by the loop's thread, used only for the log
        self._consumed = View(0, frozenset())
        self._taken_at: dict[str, float] = {}
        self._unwanted_at: dict[str, int] = {}
        self._joined = False
        self._is_short = False
        self._ticked_at = float("-inf")
        self._heartbeat: Heartbeat | None = None
        self._heartbeat_at = float("-inf")
        self._backoff = Backoff()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self.run, name="leases", daemon=True)

    def start(self) -> None:
        """Starts the thread. Call it once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the session, and with it every lease. The loop must have stopped consuming. Idempotent."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)
        else:
            self._leave()

    def note_tick(self, consumed: View) -> None:
        """Notes a tick of the loop, and the queues that the loop consumes, with the version of `wanted`."""
        self._ticked_at = self.clock()
        changed, self._consumed = consumed != self._consumed, consumed
        if changed:
            self._wake.set()

    @property
    def has_ended(self) -> bool:
        """Returns True if the thread ended by itself, which is a bug: the worker must stop."""
        return not self._thread.is_alive()

    def run(self) -> None:
        """Runs turns until stopped. Holds no lease afterwards, even after an error."""
        try:
            while not self._stopping:
                self.run_once()
                self._wake.wait(SHORT_SECONDS if self._is_short else TURN_SECONDS)
                self._wake.clear()
        finally:
            self._leave()

    def run_once(self) -> None:
        """Runs one turn. An error closes the session, which ends all leases; later turns start again."""
        now = self.clock()
        if not self._backoff.allows(now):
            return
        # `busy` is read first, so that a batch that ends in between counts as busy or as the last batch.
        busy, last = self.activity.busy, self.activity.last
        seen_at = max(self._ticked_at, last.ended_at) if last else self._ticked_at
        busy_since = busy and busy[1]
        if not is_responsive(now=now, seen_at=seen_at, busy_since=busy_since, stuck_after=self.stuck_after):
            if self._joined:
                if self.broker_is_away:
                    log.info("broker unreachable; releasing queue leases")
                else:
                    log.warning("consumer loop unresponsive; releasing queue leases")
                self._leave()
            return
        try:
            self._turn(now)
        except psycopg2.Error as error:
            self._leave()
            if self._backoff.note_failure(now):
                away = whose_fault(error) is Fault.SURROUNDINGS
                say = "no leases until Postgres is available" if away else "no leases: run `sluice init`"
                log.warning(say, error=error)
            return
        if self._backoff.note_success():
            log.info("Postgres available again; acquiring queue leases")

    def _turn(self, now: float) -> None:
        if not self._joined:
            join_workers(self.session)
            self._joined = True
            # The row is written before the first decision: without it, a member declares nothing.
            self._tell(now)
        self._give_back()
        snapshot = read_lease_snapshot(self.session)
        yielding = self.yields.choose(
            self._taken_at,
            self.wanted.queues,
            now,
            lambda queue, left: may_yield(
                snapshot, queue, topics=left.topics, message_format=left.message_format
            ),
        )
        if yielding:
            log.info("yielding queues to workers that declare more", queues=sorted(yielding))
        snapshot = snapshot.with_yielded(self.yields.yielded(now))
        moves = decide_moves(snapshot, self.wanted.queues, self._shuffled)
        self._is_short = moves.is_short
        taken: list[str] = []
        for queues, count in moves.tries:
            left = count
            for queue in queues:
                # A queue that is not given back yet is not free.
                if left and queue not in self._taken_at and try_lease(self.session, queue):
                    taken.append(queue)
                    self._taken_at[queue] = now
                    left -= 1
        if taken or moves.give:
            self._want((self.wanted.queues | set(taken)) - set(moves.give))
            for queue in moves.give:
                self._unwanted_at[queue] = self.wanted.version
        self._tell(now)

    def _give_back(self) -> None:
        consumed = self._consumed
        for queue, version in list(self._unwanted_at.items()):
            if consumed.version >= version and queue not in consumed.queues:
                end_lease(self.session, queue)
                del self._unwanted_at[queue], self._taken_at[queue]

    def _leave(self) -> None:
        self.session.close()
        self._joined = self._is_short = False
        self._taken_at.clear()
        self._unwanted_at.clear()
        self._heartbeat = None
        if self.wanted.queues:
            self._want(frozenset())

    def _want(self, queues: frozenset[str]) -> None:
        self.wanted = View(self.wanted.version + 1, queues)
        self.wanted_changed()

    def _tell(self, now: float) -> None:
        busy, last = self.activity.busy, self.activity.last
        heartbeat = Heartbeat(
            self.node,
            os.getpid(),
            {queue: now - at for queue, at in self._taken_at.items()},
            *((busy[0], now - busy[1]) if busy else (None, None)),
            *((last.queue, now - last.ended_at, last.records, last.seconds) if last else (None,) * 4),
        )._replace(declared=self.declared, format=formats.NEWEST_FORMAT, yielded=self.yields.yielded(now))
        before = self._heartbeat
        is_news = before is None or (before.leases.keys(), before.yielded) != (
            heartbeat.leases.keys(),
            heartbeat.yielded,
        )
        if is_news or now - self._heartbeat_at >= HEARTBEAT_SECONDS:
            write_heartbeat(self.session, heartbeat)
            self._heartbeat, self._heartbeat_at = heartbeat, now

    def _shuffled(self, queues: Sequence[str]) -> list[str]:
        return self.rng.sample(list(queues), len(queues))
