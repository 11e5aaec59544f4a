"""The part of the bridge's turn that reads the progress in Postgres and writes watermarks."""

from collections.abc import Callable, Mapping
from typing import assert_never

import structlog

from sluice.bridge.inflight import Asked, Inflight, Watermarks
from sluice.bridge.lanes import Lane
from sluice.bridge.progress_clock import ProgressClock, ProgressRead
from sluice.bridge.progress_store import Progress, ProgressStore
from sluice.bridge.queue_messages import Resend
from sluice.runtime.fault_points import faults

log = structlog.get_logger("sluice.bridge")


class ProgressStep:
    """Reads the progress when it is due. `note_resent` is called with the lanes that will be sent again."""

    def __init__(
        self,
        store: ProgressStore,
        inflight: Inflight,
        note_resent: Callable[[Mapping[Lane, Resend]], None],
    ) -> None:
        self._store = store
        self._inflight = inflight
        self._note_resent = note_resent
        self._clock = ProgressClock()

    def request_all(self) -> None:
        """Makes a reading of all lanes due, because Postgres was unavailable and may have changed."""
        self._clock.request_all()

    def due_at(self) -> float:
        """Returns the time of the next reading."""
        inflight = self._inflight
        return self._clock.due_at(
            is_busy=inflight.is_busy, has_moved=bool(inflight.moved), lanes=self._lanes_in_flight()
        )

    def _lanes_in_flight(self) -> int:
        """Returns at least the number of lanes that a reading while messages are in flight looks up."""
        return len(self._inflight.partitions) * len(self._inflight.schedule.in_flight)

    def needs_positions(self, now: float, *, has_records: bool) -> bool:
        """Returns True if the next reading needs the consumer's positions, to write watermarks."""
        return now >= self._clock.all_due_at(has_records or bool(self._inflight.moved))

    def run(self, now: float, *, last: bool) -> bool:
        """Reads what is due, or everything if `last`. Returns True if anything was read.

        Raises ProgressStoreUnavailable. Then the reading stays due.
        """
        inflight = self._inflight
        due = self._clock.due(
            now, is_busy=inflight.is_busy, has_moved=bool(inflight.moved), lanes=self._lanes_in_flight()
        )
        if last:
            due = ProgressRead.ALL
        if due is None:
            return False
        self._clock.note_tried(now)
        match due:
            case ProgressRead.ALL:
                faults.reach("bridge.before_progress")
                places = list(inflight.partitions)
                self._store.settle_progress(places, lambda progress: self._decide(progress, now))
                self._clock.note_all(now)
            case ProgressRead.IN_FLIGHT:
                asked = inflight.asked()
                self._apply(self._store.read_progress(*asked), now, asked)
            case _:
                assert_never(due)
        return True

    def _decide(self, progress: Progress, now: float) -> Watermarks:
        self._apply(progress, now)
        return self._inflight.watermarks()

    def _apply(self, progress: Progress, now: float, asked: Asked | None = None) -> None:
        inflight = self._inflight
        lost, resent = inflight.settle(progress.partitions, now, asked)
        for place, reason in lost.items():
            log.warning(
                "partition restarted from its watermark", topic=place[0], partition=place[1], reason=reason
            )
            inflight.forget(place)
        self._note_resent(resent)
        halted, mended = inflight.note_halted(progress.halted)
        for queue in halted:
            log.warning("queue halted; its first records are retried every few seconds", queue=queue)
        for queue in mended:
            log.info("queue no longer halted", queue=queue)
        paused, resumed = inflight.note_paused(progress.paused)
        for topic in paused:
            log.warning("topic paused by an operator; the bridge does not read it", topic=topic)
        for topic in resumed:
            log.info("topic resumed", topic=topic)
