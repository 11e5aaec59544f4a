"""Reports the partitions that this bridge reads, and the reasons why other partitions are not read."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple
from uuid import UUID

import structlog

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.client_errors import ClientErrors
from sluice.bridge.inflight import Inflight
from sluice.bridge.login_watch import LoginWatch
from sluice.bridge.partition_problems import PartitionProblems
from sluice.bridge.partition_starter import PartitionStarter
from sluice.bridge.progress_store import ProgressStore
from sluice.db.delivery.partition_reads import PartitionRead
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.kafka_io.consumer import BrokersAway, Consumer, ConsumerBroken, TopicFacts
from sluice.kafka_io.kafka_errors import AWAY_CODES, may_be_refused
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place, place_names
from sluice.runtime.repeat_filter import AWAY

log = structlog.get_logger("sluice.bridge")

REPORT_SECONDS = 5.0
NO_BROKER = "no broker answers"
_OUTAGE_PROBLEMS = frozenset({ProblemKind.NO_LEADER, ProblemKind.KAFKA_ERROR})
_OUTAGE_CODES = AWAY_CODES | {"_WAIT_COORD"}
STATE_SECONDS = 1.0  # the time between comparisons of topics and problems; a comparison costs 0.1 ms


class UnreadPartitions(NamedTuple):
    """Partitions that no bridge reads, although no reason is known."""

    never_read: AbstractSet[Place]
    abandoned: AbstractSet[Place]
    """Partitions that a bridge read earlier."""


class ReadReport:
    """Reports the partitions of the bridge.

    Every module that finds a problem adds the problem to `problems`.
    """

    def __init__(
        self,
        store: ProgressStore,
        inflight: Inflight,
        metrics: BridgeMetrics,
        *,
        topics: Iterable[str],
        reader: UUID,
        clock: Callable[[], float],
        share: PartitionShare = WHOLE,
        login: LoginWatch | None = None,
    ) -> None:
        """`reader` names this bridge in `partition_reads`. `login` is None if no login can be refused."""
        self._login = login
        self._store = store
        self._inflight = inflight
        self._metrics = metrics
        self._reader = reader
        self._written_at = self._compared_at = float("-inf")
        self.problems = PartitionProblems()
        self._errors = ClientErrors(self.problems, topics, clock=clock, share=share)

    @property
    def group_is_refused(self) -> bool:
        """True while Kafka refuses this bridge as a member of its group."""
        return self._errors.group_is_refused

    def is_group_probe_due(self, now: float) -> bool:
        """Returns True if a new consumer should check now if Kafka still refuses this bridge."""
        return self._errors.is_group_probe_due(now)

    def take_renewal(self) -> bool:
        """Returns True once if a new consumer must log in with new files."""
        return self._login is not None and self._login.take_renewal()

    def note_broken(self, error: ConsumerBroken, now: float) -> None:
        """Notes the reason why there is no consumer."""
        away = f"{NO_BROKER}: {error}" if isinstance(error, BrokersAway) else str(error)
        self._errors.note_state({}, {}, frozenset(), now, away=away)

    def take(self, consumer: Consumer, now: float) -> None:
        """Takes the errors that the consumer reports, and logs those that are due.

        Call it after each poll.
        """
        self._errors.note_readable(consumer.take_readable())
        errors = consumer.take_errors()
        if self._login is not None and any(map(may_be_refused, errors)):
            self._login.suspect()
        if not errors and now - self._compared_at < STATE_SECONDS:
            return
        self._compared_at = now
        for error in errors:
            self._metrics.note_kafka_error(error.code)
        for error in self._errors.note_errors(errors, now):
            marked = {AWAY: "Kafka"} if error.topic is None and error.code in _OUTAGE_CODES else {}
            log.warning(
                "Kafka client error", code=error.code, topic=error.topic, reason=error.detail, **marked
            )
        self._errors.note_state(
            consumer.topics(),
            consumer.topic_errors(),
            consumer.assignment(),
            now,
            away="" if consumer.brokers_answer() else self._away(),
        )
        for place in self._errors.due_probes(now):
            if place in self._inflight.partitions:
                consumer.seek(place, self._inflight.partitions[place].position)

    def _away(self) -> str:
        if self._login is None:
            return NO_BROKER
        self._login.suspect()
        return self._login.refusal or NO_BROKER

    def log_due(self, now: float) -> None:
        """Logs each problem at once and then every minute.

        A line lists all partitions with the same problem.
        """
        due: dict[PartitionProblem, list[Place]] = {}
        for place, problem in self.problems.due_lines(now):
            due.setdefault(problem, []).append(place)
        current = self.problems.current()
        nothing_is_read = bool(current) and current.keys() >= self._errors.seen()
        for problem, places in due.items():
            write = log.error if problem.kind is ProblemKind.STOPPED else log.warning
            is_outage = problem.kind in _OUTAGE_PROBLEMS and nothing_is_read
            write(
                "partition is not read",
                partitions=place_names(places),
                problem=problem.kind.value,
                offset=problem.offset,
                reason=problem.detail,
                **({AWAY: "Kafka"} if is_outage else {}),
            )

    def is_due(self, now: float) -> bool:
        """Returns True if the next report is due."""
        return now - self._written_at >= REPORT_SECONDS

    def write(self, consumer: Consumer | None, starter: PartitionStarter, now: float) -> UnreadPartitions:
        """Writes the report. Returns the partitions that no bridge reads. Raises ProgressStoreUnavailable."""
        self._written_at = now
        assigned = frozenset[Place]() if consumer is None else consumer.assignment()
        reading = self._inflight.partitions.keys() & assigned
        waiting = {} if consumer is None else find_waiting(assigned - reading, consumer.topics())
        problems = waiting | dict(self.problems.current())
        self._store.write_reads(
            self._reader,
            reading=reading - problems.keys(),
            problems=problems,
            seen=self._errors.seen(),
        )
        if consumer is None:
            return UnreadPartitions(frozenset(), frozenset())
        there = {(topic, n) for topic, known in consumer.topics().items() for n in known.numbers}
        return find_unread(self._store.read_reads(), starter.find_unread(consumer), there)


def find_waiting(
    unstarted: Iterable[Place], facts: Mapping[str, TopicFacts]
) -> dict[Place, PartitionProblem]:
    """Returns the partitions of a new topic that wait for the topic's other partitions.

    All partitions are registered together. A partition that is registered later starts at offset 0, even with
    start="latest".
    """
    lone = {topic: sorted(known.leaderless) for topic, known in facts.items() if known.leaderless}
    return {
        place: PartitionProblem(
            ProblemKind.NO_LEADER,
            f"waits for partitions {lone[place[0]]} of its topic, which have no leader",
        )
        for place in unstarted
        if place[0] in lone
    }


def find_unread(
    reads: Iterable[PartitionRead], without_rows: Iterable[Place], there: Iterable[Place]
) -> UnreadPartitions:
    """Returns the partitions that no bridge reads and for which no bridge reported a problem.

    `without_rows`: partitions that no bridge ever started. `there`: all partitions that exist.
    """
    rows = {(read.topic, read.partition): read for read in reads}
    # A stop concerns its whole topic, but it is reported only for one partition.
    stopped = {read.topic for read in rows.values() if read.problem is ProblemKind.STOPPED}
    explained = {
        place
        for place, read in rows.items()
        if read.unread_seconds is None or read.problem is not None or read.topic in stopped
    }
    # Only partitions with a report count as abandoned. A partition without a report may be read by a bridge
    # of an older version, which writes no reports.
    once = {place for place, read in rows.items() if read.was_read}
    return UnreadPartitions(frozenset(without_rows) - explained, once.intersection(there) - explained)
