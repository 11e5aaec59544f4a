"""The thread that holds this worker's leases in Postgres. The worker's loop consumes the leased queues.

Thread and loop exchange two values, each replaced as a whole. `wanted` are the queues that the loop should
consume, and `consumed` are the queues that the loop consumes. To give a queue back, the thread first removes
it from `wanted`. It releases the lock only after the loop has stopped consuming the queue. Therefore no other
worker takes a queue from which this worker may still pop.
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

TURN_SECONDS = 0.5  # after this time, a started or ended worker is detected; each turn costs one statement
SHORT_SECONDS = 0.1  # the same, while this worker waits for queues that other workers give back
# The maximum age of the figures of `sluice workers`; each heartbeat costs one row version.
HEARTBEAT_SECONDS = 1.0
# A loop that neither works nor ticks for this long has no broker or is stuck. Then other workers should get
# its queues.
SILENT_SECONDS = 3.0
# A loop that works on one batch for this long is stuck; a batch stops by itself after 20 seconds.
STUCK_SECONDS = 60.0
END_SECONDS = 5.0  # the longest wait for the thread when the worker ends; a statement may be in flight


class View(NamedTuple):
    """A set of queues, and the version of `wanted` from which the set follows."""

    version: int
    queues: frozenset[str]


def stuck_seconds(handler_seconds: float) -> float:
    """Returns the time after which a batch counts as stuck. `handler_seconds` is the limit for one event.

    A batch starts no event after 20 seconds. The handlers of its last event run at most two times, and its
    rows must be written.
    """
    return max(STUCK_SECONDS, 2 * handler_seconds + 40.0)


def is_responsive(
    *, now: float, seen_at: float, busy_since: float | None, stuck_after: float = STUCK_SECONDS
) -> bool:
    """Returns True if the loop may keep its queues.

    `seen_at`: the time of its last tick or last end of a batch.
    """
    if busy_since is not None:
        return now - busy_since < stuck_after
    return now - seen_at < SILENT_SECONDS


@dataclass
class LeaseThread:
    """Holds the leases.

    A separate thread runs `run` and calls `wanted_changed`. The loop's thread calls the other methods.
    """

    session: Session
    node: str
    activity: Activity
    wanted_changed: Callable[[], None]
    declared: Mapping[str, Iterable[str]]
    """Entity type → topics that this worker's code declares.

    The worker takes no queue of another entity type.
    """
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
        """Ends the session, which ends every lease. The loop must have stopped consuming. Idempotent."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(END_SECONDS)
        else:
            self._leave()

    def note_tick(self, consumed: View) -> None:
        """Notes a tick of the loop, and the queues that the loop consumes.

        `consumed.version` is the version of `wanted` that the loop has read.
        """
        self._ticked_at = self.clock()
        changed, self._consumed = consumed != self._consumed, consumed
        if changed:
            self._wake.set()

    @property
    def has_ended(self) -> bool:
        """Returns True if the thread has ended by itself. This is a bug, and the worker must stop."""
        return not self._thread.is_alive()

    def run(self) -> None:
        """Runs turns until `stop` is called. Afterwards it holds no lease, even after an error."""
        try:
            while not self._stopping:
                self.run_once()
                self._wake.wait(SHORT_SECONDS if self._is_short else TURN_SECONDS)
                self._wake.clear()
        finally:
            self._leave()

    def run_once(self) -> None:
        """Runs one turn. An error closes the session, which ends all leases. Later turns begin again."""
        now = self.clock()
        if not self._backoff.allows(now):
            return
        # `busy` is read before `last`. If a batch ends in between, it counts as current, and so as activity.
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
            # The row is written before the first decision, because a member without a row declares nothing.
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
                # A queue in `_taken_at` is not given back completely yet, so it cannot be taken.
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
