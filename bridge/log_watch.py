"""Checks all partitions of the share every few seconds, including partitions of other bridges.

Runs in a thread with its own connections, because a request for a partition without a leader would block the
bridge's loop.
"""

import threading
import time
from collections.abc import Iterable, Mapping

import psycopg2
import structlog

from sluice.bridge.start_conditions import judge_logs
from sluice.bridge.topic_stops import Look
from sluice.db.delivery.partition_reads import READ_SECONDS, PartitionRead, read_partition_reads
from sluice.db.delivery.progress import ProgressSession, read_assignments
from sluice.db.records import ProblemKind
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.log_reader import LogReader, LogsUnavailable
from sluice.runtime.backoff import Backoff
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place

log = structlog.get_logger("sluice.bridge")

LOOK_SECONDS = 2.0
KAFKA_TIMEOUT_MS = 2_000
STOP_SECONDS = 5.0  # the longest wait for the thread, which may have a request in flight
WAITING_LOG_SECONDS = 60.0


class LogWatch:
    """A thread that makes a `Look` every few seconds.

    It continues after outages of Kafka and Postgres. During an outage there is no new look. Call `start` only
    once.
    """

    def __init__(
        self, session: ProgressSession, access: KafkaAccess, share: PartitionShare, declared: Iterable[str]
    ) -> None:
        self._access = access
        self._share = share
        self._declared = frozenset(declared)
        self._session = session
        self._reader: LogReader | None = None
        self._offered: tuple[Mapping[str, TopicFacts], frozenset[str]] | None = None
        self._look: Look | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._failure = Backoff()  # used only for the log
        self._waiting_logged_at: dict[str, float] = {}
        self.ends: Mapping[Place, int] = {}
        """The ends of the logs (the last stable offsets) at the last reading."""

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def offer(self, topics: Mapping[str, TopicFacts], refused: Iterable[str]) -> None:
        """Sets the facts of topics for the next look, as the consumer reports them now.

        `refused`: topics that may exist, but for which Kafka refuses to return facts.
        """
        self._offered = topics, frozenset(refused)

    def take(self) -> Look | None:
        """Returns the newest look; None if that look was already taken."""
        look, self._look = self._look, None
        return look

    def _run(self) -> None:
        try:
            while not self._stopping.wait(LOOK_SECONDS):
                # Each set of facts is used for one look. If the consumer is closed meanwhile, the facts would
                # be too old for a second look.
                offered, self._offered = self._offered, None
                if offered is not None:
                    self._try(*offered)
        finally:
            self._session.close()
            if self._reader is not None:
                self._reader.close()

    def _try(self, topics: Mapping[str, TopicFacts], refused: frozenset[str]) -> None:
        try:
            self._look = self._read(topics, self._declared - refused, time.monotonic())
            self._failure.note_success()
        except Exception as error:
            # The thread continues after every error. Without it, lost records would not be detected.
            if isinstance(error, psycopg2.Error):
                self._session.close()
            if isinstance(error, LogsUnavailable) and self._reader is not None:
                # A new client reads the files of its login again.
                self._reader.close()
                self._reader = None
            if self._failure.note_failure(time.monotonic()):
                log.warning("logs not compared with the applied offsets", error=error)

    def _read(self, topics: Mapping[str, TopicFacts], declared: frozenset[str], began_at: float) -> Look:
        missing = {(topic, self._share.first) for topic in declared.difference(topics)}
        places = missing | {(topic, number) for topic, known in topics.items() for number in known.numbers}
        assignments = read_assignments(self._session, places)
        reads = read_partition_reads(self._session)
        self._reader = self._reader or LogReader(
            self._access, self._share, request_timeout_ms=KAFKA_TIMEOUT_MS
        )
        # Kafka is read after Postgres: see `judge_assignment`.
        logs = self._reader.read_ranges(topics).ranges
        self.ends = {place: held.end for place, held in logs.items()}
        self._log_waiting(sorted(topic for topic, _ in missing - assignments.keys()), began_at)
        return Look(
            began_at,
            frozenset(places) | {(topic, self._share.first) for topic in topics},
            judge_logs(topics, declared, assignments, logs, self._share),
            {topic: one.routing for (topic, _), one in assignments.items()},
            reported_stops(reads),
        )

    def _log_waiting(self, topics: Iterable[str], now: float) -> None:
        for topic in topics:
            if now - self._waiting_logged_at.get(topic, float("-inf")) >= WAITING_LOG_SECONDS:
                self._waiting_logged_at[topic] = now
                log.warning("topic does not exist; waiting until it is created", topic=topic)


def reported_stops(reads: Iterable[PartitionRead]) -> dict[Place, str]:
    """Returns the partitions for which a bridge reports a stop now → the text of the stop."""
    return {
        (one.topic, one.partition): one.detail or ""
        for one in reads
        if one.problem is ProblemKind.STOPPED and one.reported_seconds <= READ_SECONDS
    }
