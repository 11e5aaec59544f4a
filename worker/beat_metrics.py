"""The metrics of the whole installation, which the leading beat exports. A scrape reads Postgres and Kafka.

Only one of several beats leads, so each figure is exported only once. The reader has its own session, because
scrapes run in another thread. All reads have time-outs, because Prometheus waits for at most ten seconds.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import psycopg2
import structlog
from confluent_kafka import KafkaException

from sluice.db.admin.open_issues import OpenIssues, read_open_issues
from sluice.db.admin.totals import read_positions, read_topic_ids
from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.delivery.leases import Sharing, read_workers
from sluice.db.delivery.living_processes import Process, read_living
from sluice.db.delivery.switches import read_paused_topics
from sluice.db.delivery.unread_partitions import UnreadPartition, read_unread
from sluice.kafka_io.log_range import find_unapplied, lag_records
from sluice.kafka_io.log_reader import LogReader, LogsUnavailable
from sluice.runtime import metrics
from sluice.runtime.backoff import Backoff
from sluice.runtime.exposition import Collector, GaugeMetricFamily, gauge_family
from sluice.runtime.metrics import Metric
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place
from sluice.runtime.settings import Settings, SettingsError

log = structlog.get_logger("sluice.beat")

READ_SECONDS = 5.0  # the maximum age of a reading; two scrapers share a reading
STATEMENT_TIMEOUT = "2s"
KAFKA_TIMEOUT_MS = 2_000
LOOK_SECONDS = 2.0  # the longest time to fetch the oldest records


class Lead(Enum):
    """A beat's role: it leads, another beat leads, or the leader is unknown."""

    LEADS = "leads"
    FOLLOWS = "another beat leads"
    UNKNOWN = "Postgres does not answer"


@dataclass
class Reading:
    """One reading of all figures. If a service did not answer, its figures are None or empty.

    Kafka is read only if Postgres answered.
    """

    open_issues: OpenIssues | None = None
    sharing: Sharing | None = None
    clock_offsets: Mapping[str, float] = field(default_factory=dict)
    """Kind of process → the largest difference of its clocks from the clock of Postgres, in seconds."""
    unread: Sequence[UnreadPartition] = ()
    watermarks: Mapping[Place, int] = field(default_factory=dict)
    lags: Mapping[str, int] | None = None
    """Topic → records between the watermarks and the ends of the logs, for registered topics."""
    share: PartitionShare = WHOLE
    oldest_seconds: Mapping[str, float] = field(default_factory=dict)
    """Topic → age of its first unapplied record. A topic is missing if the record was not found in time."""


class LeaderReader:
    """Reads the figures. Keeps its connections until they fail. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._access = settings.kafka_access
        self._share = settings.share
        self._session = Session(
            settings.database_url.get_secret_value(),
            application_name="sluice metrics",
            plans=QUEUE_PLANS,
            settings={"statement_timeout": STATEMENT_TIMEOUT},
        )
        self._logs: LogReader | None = None
        # Used only to log each outage one time. The pauses of the backoff are ignored.
        self._postgres, self._kafka = Backoff(), Backoff()

    def read(self) -> Reading:
        """Reads all figures.

        If a service fails, omits its figures, and connects again at the next reading.
        """
        reading = Reading(share=self._share)
        try:
            # Watermarks are read before the ends of the logs. In the reverse order, a watermark could be
            # higher than the end of its log.
            topics = read_topic_ids(self._session)
            reading.watermarks = read_positions(self._session)
            reading.sharing = read_workers(self._session)
            reading.clock_offsets = _largest_offsets(read_living(self._session))
            reading.unread = read_unread(self._session, read_paused_topics(self._session))
            reading.open_issues = read_open_issues(self._session)
        except psycopg2.Error as error:
            self._session.close()
            if self._postgres.note_failure(time.monotonic()):
                log.warning("no metrics of waiting work: Postgres unavailable", error=error)
            return Reading()
        self._postgres.note_success()
        try:
            self._read_logs(reading, topics)
        except (LogsUnavailable, KafkaException, SettingsError) as error:
            self._close_logs()
            if self._kafka.note_failure(time.monotonic()):
                log.warning("no metrics of the lag: Kafka unavailable", error=error)
            return reading
        self._kafka.note_success()
        return reading

    def close(self) -> None:
        """Closes the connections. The next reading opens them again. Idempotent."""
        self._session.close()
        self._close_logs()

    def _read_logs(self, reading: Reading, topics: Iterable[str]) -> None:
        if self._logs is None:
            self._logs = LogReader(
                self._access,
                self._share,
                request_timeout_ms=KAFKA_TIMEOUT_MS,
                look_seconds=LOOK_SECONDS,
            )
        logs = self._logs.read_ranges(topics).ranges
        lags = {place: lag_records(log, reading.watermarks.get(place)) for place, log in logs.items()}
        found_at = self._logs.read_times(find_unapplied(logs, lags))
        reading.lags, reading.oldest_seconds = _by_topic(lags, found_at, now=time.time())

    def _close_logs(self) -> None:
        logs, self._logs = self._logs, None
        if logs is not None:
            logs.close()


class LeaderCollector(Collector):
    """Exports the figures. All scrapers share a reading for READ_SECONDS.

    Reads nothing while another beat leads.
    """

    def __init__(
        self,
        reader: LeaderReader,
        *,
        lead: Callable[[], Lead],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._lead = lead
        self._clock = clock
        self._lock = threading.Lock()
        self._reading: Reading | None = None
        self._read_at = 0.0

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yields the current metrics."""
        lead = self._lead()
        yield _one(metrics.BEAT_LEADS, lead is Lead.LEADS)
        if lead is Lead.UNKNOWN:
            yield _one(metrics.POSTGRES_UP, False)
        if lead is Lead.LEADS:
            yield from _families(self._latest())
        else:
            self.close()

    def close(self) -> None:
        """Closes the connections and drops the last reading. Idempotent."""
        with self._lock:
            self._reading = None
            self._reader.close()

    def _latest(self) -> Reading:
        with self._lock:
            if self._reading is None or self._clock() - self._read_at >= READ_SECONDS:
                self._reading = self._reader.read()
                self._read_at = self._clock()
            return self._reading


def _families(reading: Reading) -> Iterable[GaugeMetricFamily]:
    open_issues, sharing = reading.open_issues, reading.sharing
    yield _one(metrics.POSTGRES_UP, open_issues is not None)
    if open_issues is None or sharing is None:
        return
    yield _each(metrics.SHARE_PARTITIONS, {str(reading.share): len(reading.watermarks)})
    yield _one(metrics.HALTED_QUEUES, open_issues.halted_queues)
    yield _one(metrics.HALTED_TOPICS, open_issues.halted_topics)
    yield _one(metrics.HALTED_EFFECTS, open_issues.halted_effects)
    yield _one(metrics.OUTBOX_RECORDS, open_issues.outgoing_records)
    yield _one(metrics.OUTBOX_OLDEST_SECONDS, open_issues.oldest_outgoing_seconds)
    yield _one(metrics.REFUSED_RECORDS, open_issues.refused_records)
    yield _one(metrics.PROJECTION_LETTERS, open_issues.projection_letters)
    yield _one(metrics.STOPPED_GENERATIONS, open_issues.stopped_generations)
    yield _one(metrics.RETRYING_EVENTS, open_issues.retrying_events)
    yield _one(metrics.PARKED_ENTITIES, open_issues.parked_entities)
    yield _one(metrics.CALLS_PAUSED, open_issues.effects_paused)
    yield _one(metrics.OLDEST_DUE_CALL_SECONDS, open_issues.oldest_due_call_seconds)
    yield _each(
        metrics.DEAD_LETTERS,
        {
            "dead": open_issues.dead_letters,
            "conflict": open_issues.conflicts,
            "waiting": open_issues.waiting_letters,
        },
    )
    yield _each(
        metrics.CALLS,
        {
            "pending": open_issues.pending_calls,
            "running": open_issues.running_calls,
            "failed": open_issues.failed_calls,
            "uncertain": open_issues.uncertain_calls,
        },
    )
    yield _one(metrics.SHARING_WORKERS, len(sharing.workers))
    yield _one(metrics.UNLEASED_QUEUES, len(sharing.unheld()))
    yield _each(metrics.CLOCK_OFFSET_SECONDS, reading.clock_offsets)
    yield _unread(reading.unread)
    yield _one(metrics.KAFKA_UP, reading.lags is not None)
    if reading.lags is not None:
        yield _each(metrics.LAG_RECORDS, reading.lags)
        yield _each(metrics.OLDEST_UNAPPLIED_SECONDS, reading.oldest_seconds)


def _one(metric: Metric, value: float) -> GaugeMetricFamily:
    family = gauge_family(metric)
    family.add_metric((), value)
    return family


def _each(metric: Metric, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = gauge_family(metric)
    for label, value in values.items():
        family.add_metric((label,), value)
    return family


def _largest_offsets(living: Iterable[Process]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in living:
        if one.clock_offset is not None:
            found[one.kind] = max(found.get(one.kind, 0.0), abs(one.clock_offset))
    return found


def _unread(partitions: Sequence[UnreadPartition]) -> GaugeMetricFamily:
    family = gauge_family(metrics.PARTITION_UNREAD_SECONDS)
    for one in partitions:
        family.add_metric((one.topic, str(one.partition), one.kind.value), one.seconds)
    return family


def _by_topic(
    lags: Mapping[Place, int], found_at: Mapping[Place, float], *, now: float
) -> tuple[dict[str, int], dict[str, float]]:
    lag: dict[str, int] = {}
    ages: dict[str, float] = {}
    for topic in sorted({topic for topic, _ in lags}):
        lag[topic] = sum(records for place, records in lags.items() if place[0] == topic)
        found = [now - at for place, at in found_at.items() if place[0] == topic]
        if found or not lag[topic]:
            # The age is at least 0, because a producer's clock may be ahead of this machine's clock.
            ages[topic] = max([0.0, *found])
    return lag, ages
