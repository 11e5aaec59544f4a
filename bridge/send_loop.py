"""Publishes due messages, and resends lost ones."""

from collections import Counter
from collections.abc import Iterable, Mapping

import structlog

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.inflight import Inflight
from sluice.bridge.lanes import Lane
from sluice.bridge.publisher import Probe, Publisher, PublisherRefused, PublisherUnavailable
from sluice.bridge.queue_buffer import QueueBuffer
from sluice.bridge.queue_messages import OutgoingBatch, Resend
from sluice.bridge.queue_state import Waiting
from sluice.bridge.start_conditions import too_large
from sluice.bridge.topic_stops import TopicStopped
from sluice.runtime.backoff import Backoff
from sluice.runtime.fault_points import faults
from sluice.runtime.log_pace import LogPace
from sluice.runtime.redis_item import MessageTooLarge
from sluice.tasks.task_messages import FormatTooOld
from sluice.tasks.task_sender import Sent

log = structlog.get_logger("sluice.bridge")

# After this time at the latest, the bridge detects that Redis lost a message of the bridge.
SENTINEL_SECONDS = 0.2
# The same time while no message is in flight. The answer is then needed only for the metrics and the log.
IDLE_SENTINEL_SECONDS = 1.0
# The shortest time between two readings of a list.
LIST_SECONDS = 0.010
# Before the bridge reads lists again, it waits for this time per list of the last round trip. So it reads at
# most 2,000 lists per second.
ASK_SECONDS = 0.0005


class SendLoop:
    """The part of the bridge's turn that uses Redis."""

    def __init__(self, publisher: Publisher, inflight: Inflight, metrics: BridgeMetrics) -> None:
        self._publisher = publisher
        self._inflight = inflight
        self._metrics = metrics
        self._backoff = Backoff()
        self._pace = LogPace()
        self.redis_refuses = False
        """True if Redis answered the last request but refused to store data."""
        self._sentinel: str | None = None
        self._probed_at = -IDLE_SENTINEL_SECONDS

    def send_due(self, now: float) -> None:
        """Sends the messages that are due. In an outage of Redis, all messages stay unsent.

        Raises TopicStopped for a record that is too large for a message. This record stays unsent.
        """
        if not self._backoff.allows(now):
            return
        try:
            due = self._inflight.schedule.take_due(now)
            self._publish(now, due, self._probe(now, due))
            self.redis_refuses = False
        except PublisherRefused:
            self.redis_refuses = True
            self._backoff.note_failure(now)
            return
        except PublisherUnavailable as error:
            self.redis_refuses = False
            if self._backoff.note_failure(now):
                log.warning("Redis unavailable; due messages stay unsent", error=error)
            return
        if self._backoff.note_success():
            log.info("Redis available again")

    def due_at(self) -> float:
        """Returns the time at which `send_due` next has something to do, if nothing changes before."""
        return min(self._inflight.schedule.next_at(), self._sentinel_due_at())

    @property
    def is_failing(self) -> bool:
        """Returns True if the last request failed. Until it is repeated, due messages stay due."""
        return self._backoff.failing

    @property
    def redis_is_away(self) -> bool:
        """Returns True if Redis did not answer the last request."""
        return self._backoff.failing and not self.redis_refuses

    def note_resent(self, resent: Mapping[Lane, Resend]) -> None:
        """Counts the lanes that are sent again.

        Logs one line per reason, because an outage affects all lanes.
        """
        self._metrics.note_resent(resent.values())
        for reason, lanes in Counter(resent.values()).items():
            log.info("lanes will be sent again", reason=reason.value, lanes=lanes)

    def _sentinel_due_at(self) -> float:
        is_idle = not self._inflight.schedule.in_flight
        return self._probed_at + (IDLE_SENTINEL_SECONDS if is_idle else SENTINEL_SECONDS)

    def _probe(self, now: float, due: Iterable[QueueBuffer]) -> Probe:
        queues = [buffer.name for buffer in due if buffer.needs_list(now)]
        searched = [buffer.name for buffer in due if buffer.needs_search(now)]
        if not queues and not searched and now < self._sentinel_due_at():
            return Probe({}, {}, self._sentinel or "")
        probe = self._publisher.probe(queues, searched)
        self._probed_at = now
        if self._sentinel not in (None, probe.sentinel):
            lanes = self._inflight.rewind_all()
            self._metrics.note_resent([Resend.WIPED] * lanes)
            log.warning("Redis was wiped", lanes=lanes)
        self._sentinel = probe.sentinel
        return probe

    def _publish(self, now: float, due: Iterable[QueueBuffer], probe: Probe) -> None:
        published, schedule = 0, self._inflight.schedule
        pause_seconds = max(LIST_SECONDS, ASK_SECONDS * len(probe.waiting))
        for queue in due:
            waiting = probe.waiting.get(queue.name)
            if waiting is not None:
                queue.note_list(waiting)
            self.note_resent(queue.resend_halted(now, waiting))
            if queue.name in probe.found:
                self.note_resent(queue.resend_lost(now, probe.found[queue.name]))
            while waiting is not None and queue.is_due(now, waiting, is_crowded=schedule.is_crowded):
                if published:
                    faults.reach("bridge.half_published")
                batch = queue.cut()
                try:
                    sent = self._send(batch)
                except FormatTooOld as error:
                    self._hold_back(queue, batch, now, error)
                    continue
                queue.note_sent(batch, now, sent.message_id)
                self._metrics.note_published(batch.slices)
                published += 1
                waiting = Waiting(sent.waiting, waiting.bytes + sent.bytes)
            if waiting is not None:
                queue.note_asked(now, pause_seconds)
        if published:
            faults.reach("bridge.published")

    def _hold_back(self, queue: QueueBuffer, batch: OutgoingBatch, now: float, error: FormatTooOld) -> None:
        for lane, part, _ in batch.parts:
            flawed = [record.offset for record in part.records if record.flaw is not None]
            if flawed:
                queue.hold_back(lane, now)
                if self._pace.allows((part.topic, part.partition)):
                    log.warning(
                        "lane held back until no older worker runs",
                        queue=queue.name,
                        topic=part.topic,
                        partition=part.partition,
                        offset=flawed[0],
                        reason=str(error),
                    )

    def _send(self, batch: OutgoingBatch) -> Sent:
        try:
            return self._publisher.publish(batch.queue, batch.slices)
        except MessageTooLarge as error:
            first = batch.slices[0]
            place = (first.topic, first.partition)
            raise TopicStopped(place, too_large(place, first.records[0].offset, str(error))) from error
