"""The bridge's loop.

A turn polls, starts partitions, drops the records that are applied, and sends due messages.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from uuid import UUID, uuid4

import structlog

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.group_member import GroupMember
from sluice.bridge.inflight import Inflight
from sluice.bridge.log_watch import LogWatch
from sluice.bridge.login_watch import LoginWatch
from sluice.bridge.partition_starter import PartitionStarter
from sluice.bridge.partitioner import PartitionerCheck
from sluice.bridge.progress_step import ProgressStep
from sluice.bridge.progress_store import ProgressStore, ProgressStoreUnavailable
from sluice.bridge.publisher import Publisher
from sluice.bridge.read_report import ReadReport
from sluice.bridge.send_loop import SendLoop
from sluice.bridge.start_conditions import truncated
from sluice.bridge.topic_stopper import TopicStopper
from sluice.bridge.topic_stops import BridgeStopped, TopicStopped
from sluice.bridge.unreadable_records import UnreadableRecords
from sluice.kafka_io.consumer import Consumer, ConsumerBroken
from sluice.kafka_io.record_types import Record
from sluice.runtime.backoff import Backoff
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place, place_names
from sluice.tasks.api import Topic

log = structlog.get_logger("sluice.bridge")

# The longest wait for a record. After a signal or a new assignment, the bridge reacts within this time.
LONGEST_POLL_SECONDS = 0.2
FAILING_POLL_SECONDS = 0.010  # the shortest wait while a service fails, because a due step then stays due
COMMIT_SECONDS = 5.0  # long, because commits are only for tools that show the lag
MEASURE_SECONDS = 1.0  # Prometheus does not read metrics more often
IDLE_SECONDS = 0.1  # the pause between attempts to make a consumer


class Bridge:
    """One member of the bridges' group. `make_consumer` gets the name of the member in the group."""

    def __init__(
        self,
        *,
        make_consumer: Callable[[str], Consumer],
        store: ProgressStore,
        publisher: Publisher,
        topics: Mapping[str, Topic],
        inflight: Inflight,
        metrics: BridgeMetrics,
        watch: LogWatch,
        reader: UUID | None = None,
        share: PartitionShare = WHOLE,
        login: LoginWatch | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._topics = topics
        self._clock = clock
        self._sleep = sleep
        self.inflight = inflight
        self._metrics = metrics
        self._report = ReadReport(
            store,
            inflight,
            metrics,
            topics=topics,
            reader=reader or uuid4(),
            clock=clock,
            share=share,
            login=login,
        )
        self._stopper = TopicStopper(watch, inflight, topics, self._report.problems)
        self._starter = PartitionStarter(store, inflight, topics, self._stopper.stops)
        self._member = GroupMember(make_consumer, store, inflight, clock)
        self._unreadable = UnreadableRecords(store, inflight, watch, self._report.problems)
        self._send_loop = SendLoop(publisher, inflight, metrics)
        self._reported_over: frozenset[Place] = frozenset()  # used only for the log
        self._check = PartitionerCheck()
        self._store_backoff = Backoff()
        self._progress = ProgressStep(store, inflight, self._send_loop.note_resent)
        self._committed_at = self._measured_at = float("-inf")

    def run(self, *, should_stop: Callable[[], bool], turned: Callable[[bool], None]) -> None:
        """Runs turns until `should_stop` returns True. Raises BridgeStopped if no topic is left to read.

        `turned` is called after each turn, with False if a restart of the process may help.
        """
        try:
            while not should_stop():
                self.run_once()
                turned(self._member.is_healthy(self._clock()))
            self._settle(self._clock(), last=True)
        except BridgeStopped:
            with suppress(ProgressStoreUnavailable):
                # Writes the reasons, because operators run `status` and `doctor` after the bridge has ended.
                self._report.write(None, self._starter, self._clock())
            raise
        finally:
            self.close()

    @property
    def is_member(self) -> bool:
        """True if this bridge is in the group and the brokers answer. It may have no partition."""
        consumer = self._member.consumer
        return consumer is not None and consumer.brokers_answer()

    def run_once(self) -> None:
        """Runs one turn.

        During an outage of Kafka, Redis or Postgres, skips a part of the turn; later turns retry.
        """
        now = self._clock()
        self._measure(now)
        try:
            consumer = self._member.consumer or self._open_consumer(now)
            if consumer is None:
                self._report_reads(None, now)
                self._sleep(IDLE_SECONDS)
                return
            # Directly before the poll, so that a topic is not read after the log says that it is paused.
            self._bound(consumer)
            now = self._read(consumer, now)
            self._stopper.take_look(consumer)
            self._start(consumer, now)
            if not self._report.group_is_refused:
                self._member.check_assignment(consumer, now)
            self._report_reads(consumer, now)
            if self._report.take_renewal() or self._report.is_group_probe_due(now):
                self._member.drop()
        except ConsumerBroken as error:
            self._member.note_broken(error, now)
            self._report.note_broken(error, now)
            self._sleep(IDLE_SECONDS)
            return
        self._settle(now)
        try:
            self._send_loop.send_due(now)
        except TopicStopped as stopped:
            self._stopper.stop(stopped.place, stopped.stop, now)

    def close(self) -> None:
        """Closes the consumer and drops all held records. Idempotent."""
        self._member.drop()

    def _open_consumer(self, now: float) -> Consumer | None:
        if not self._store_backoff.allows(now) or not self._member.may_open(now):
            return None
        try:
            self._member.claim_instance()
        except ProgressStoreUnavailable as error:
            self._note_store_away(now, error)
            return None
        self._note_store_back()
        return self._member.open(now)

    def _report_reads(self, consumer: Consumer | None, now: float) -> None:
        self._report.log_due(now)
        if not self._report.is_due(now) or not self._store_backoff.allows(now):
            return
        try:
            unread = self._report.write(consumer, self._starter, now)
        except ProgressStoreUnavailable as error:
            self._note_store_away(now, error)
            return
        if consumer is not None:
            self._member.note_unread(consumer, unread, now)

    def _wait_seconds(self, now: float) -> float:
        """Returns how long a poll may wait: until the next step is due."""
        due_at = min(self._send_loop.due_at(), self._progress.due_at())
        shortest = FAILING_POLL_SECONDS if self._store_backoff.failing or self._send_loop.is_failing else 0.0
        seconds = min(max(due_at - now, shortest), LONGEST_POLL_SECONDS)
        # Both clients cut the time-out to milliseconds. Without rounding up, the bridge would poll without a
        # wait during the last millisecond.
        return math.ceil(seconds * 1_000) / 1_000

    def _read(self, consumer: Consumer, now: float) -> float:
        """Polls, and keeps the records of started partitions. Returns the time after the poll."""
        polled = consumer.poll(self._wait_seconds(now))
        now = self._clock()
        # Positions are read before changes of the assignment are handled. After that, a partition may have
        # been assigned again with another position.
        needs_positions = self._progress.needs_positions(now, has_records=bool(polled))
        positions = self._positions(consumer) if needs_positions else {}
        self._report.take(consumer, now)
        self._forget_changed(consumer)
        for place, error in consumer.take_truncated().items():
            self._stopper.stop(place, truncated(place, error), now)
        self._take(consumer, polled, now)
        for place, position in positions.items():
            self.inflight.note_position(place, position)
        return now

    def _forget_changed(self, consumer: Consumer) -> None:
        changed, assigned = consumer.take_changes(), consumer.assignment()
        changed |= self._starter.find_replaced(consumer.topics())
        left = sorted(self.inflight.partitions.keys() & changed | self.inflight.partitions.keys() - assigned)
        for place in left:
            self.inflight.forget(place)
        if left:
            log.info("partitions revoked", partitions=place_names(left))

    def _take(self, consumer: Consumer, polled: Mapping[Place, list[Record]], now: float) -> None:
        self._unreadable.note_polled(sum(map(len, polled.values())))
        for place, records in polled.items():
            if place in self.inflight.partitions:
                self._metrics.note_read(place[0], len(records))
            self.inflight.take(place, self._unreadable.without_skipped(place, records), now)
        if polled:
            place, records = next(iter(polled.items()))
            facts = consumer.topics().get(place[0])
            if facts is not None and self._check.sample(place, records[0], facts.partitions):
                log.warning(
                    "producers of this topic do not choose partitions by murmur2 of the key: events of"
                    " one key may be on several partitions, and may therefore be applied out of order",
                    topic=place[0],
                )

    def _positions(self, consumer: Consumer) -> dict[Place, int]:
        found = {place: consumer.position(place) for place in self.inflight.partitions}
        return {place: position for place, position in found.items() if position is not None}

    def _start(self, consumer: Consumer, now: float) -> None:
        if not self._store_backoff.allows(now):
            return
        try:
            self._starter.start_new(consumer, now)
            self._unreadable.look(consumer, now)
        except ProgressStoreUnavailable as error:
            self._note_store_away(now, error)

    def _bound(self, consumer: Consumer) -> None:
        before = consumer.paused()
        # Partitions that are not started yet are paused, because their records would be discarded.
        unstarted = consumer.assignment() - self.inflight.partitions.keys()
        by_hand = self.inflight.paused_by_hand()
        # A partition that only an operator paused resumes at its limit, and not at half of the limit.
        over = self.inflight.over_bounds(before - by_hand)
        wanted = over | unstarted | by_hand
        if wanted != before:
            consumer.pause_exactly(wanted)
        if over != self._reported_over:
            log.info("partitions over their limits are paused", partitions=place_names(over))
            self._reported_over = over

    def _settle(self, now: float, *, last: bool = False) -> None:
        if not last and not self._store_backoff.allows(now):
            return
        try:
            if not self._progress.run(now, last=last):
                return
            self._member.keep_instance()
        except ProgressStoreUnavailable as error:
            self._note_store_away(now, error)
            return
        self._note_store_back()
        self._commit(now)

    def _commit(self, now: float) -> None:
        consumer, partitions = self._member.consumer, self.inflight.partitions.items()
        # The first commit directly follows the first assignment, because a commit also writes a claim into
        # Kafka.
        if consumer is not None and partitions and now - self._committed_at >= COMMIT_SECONDS:
            self._committed_at = now
            try:
                consumer.commit({place: partition.watermark for place, partition in partitions})
            except ConsumerBroken as error:
                log.warning("offset commit failed (informational)", error=error)

    def _measure(self, now: float) -> None:
        if now - self._measured_at >= MEASURE_SECONDS:
            self._measured_at = now
            self._metrics.show_problems(self._report.problems.current())
            self._metrics.measure(
                self.inflight,
                postgres_up=not self._store_backoff.failing,
                redis_up=not self._send_loop.redis_is_away,
                redis_full=self._send_loop.redis_refuses,
            )

    def _note_store_away(self, now: float, error: ProgressStoreUnavailable) -> None:
        self._member.doubt_instance()
        if self._store_backoff.note_failure(now):
            log.warning("Postgres unavailable; continuing with held records", error=error)

    def _note_store_back(self) -> None:
        if self._store_backoff.note_success():
            self._progress.request_all()
            log.info("Postgres available again")
