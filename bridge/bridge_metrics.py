"""The metrics of one bridge. Counters are increased once per poll or per message, never once per record."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sluice.bridge.inflight import Inflight
from sluice.bridge.queue_messages import Resend
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.runtime import metrics
from sluice.runtime.exposition import Collector, counter, gauge
from sluice.runtime.place import Place
from sluice.tasks.apply.batch_message import Slice


class BridgeMetrics:
    """The metrics, written only by the bridge's loop."""

    def __init__(self) -> None:
        self._read_records = counter(metrics.BRIDGE_READ_RECORDS)
        self._published_messages = counter(metrics.BRIDGE_PUBLISHED_MESSAGES)
        self._published_records = counter(metrics.BRIDGE_PUBLISHED_RECORDS)
        self._resent_lanes = counter(metrics.BRIDGE_RESENT_LANES)
        self._held_bytes = gauge(metrics.BRIDGE_HELD_BYTES)
        self._span_records = gauge(metrics.BRIDGE_SPAN_RECORDS)
        self._partitions = gauge(metrics.BRIDGE_PARTITIONS)
        self._postgres_up = gauge(metrics.BRIDGE_POSTGRES_UP)
        self._redis_up = gauge(metrics.BRIDGE_REDIS_UP)
        self._kafka_errors = counter(metrics.BRIDGE_KAFKA_ERRORS)
        self._partition_problem = gauge(metrics.BRIDGE_PARTITION_PROBLEM)
        self._redis_full = gauge(metrics.BRIDGE_REDIS_FULL)
        self._unreadable_offset = gauge(metrics.BRIDGE_UNREADABLE_RECORD_OFFSET)
        for reason in Resend:
            self._resent_lanes.labels(reason.name.lower())

    def collectors(self) -> list[Collector]:
        """Returns all metrics, for the endpoint that serves them."""
        return [
            self._read_records,
            self._published_messages,
            self._published_records,
            self._resent_lanes,
            self._held_bytes,
            self._span_records,
            self._partitions,
            self._postgres_up,
            self._redis_up,
            self._kafka_errors,
            self._partition_problem,
            self._redis_full,
            self._unreadable_offset,
        ]

    def note_read(self, topic: str, records: int) -> None:
        """Counts records that the bridge read from a topic."""
        self._read_records.labels(topic).inc(records)

    def note_published(self, slices: Sequence[Slice]) -> None:
        """Counts one published message and its records."""
        self._published_messages.inc()
        self._published_records.inc(sum(len(part.records) for part in slices))

    def note_resent(self, reasons: Iterable[Resend]) -> None:
        """Counts lanes that will be sent again, by reason. `reasons` contains one reason per lane."""
        for reason, lanes in Counter(reasons).items():
            self._resent_lanes.labels(reason.name.lower()).inc(lanes)

    def note_kafka_error(self, code: str) -> None:
        """Counts one error that the Kafka client reported."""
        self._kafka_errors.labels(code).inc()

    def show_problems(self, problems: Mapping[Place, PartitionProblem]) -> None:
        """Sets the metric of partitions that are not read now, with the reasons."""
        self._partition_problem.clear()
        self._unreadable_offset.clear()
        for (topic, partition), problem in problems.items():
            self._partition_problem.labels(topic, str(partition), problem.kind.value).set(1)
            if problem.kind is ProblemKind.UNREADABLE_RECORD and problem.offset is not None:
                self._unreadable_offset.labels(topic, str(partition)).set(problem.offset)

    def measure(self, inflight: Inflight, *, postgres_up: bool, redis_up: bool, redis_full: bool) -> None:
        """Sets the gauges."""
        partitions = inflight.partitions.values()
        self._held_bytes.set(sum(partition.held_bytes for partition in partitions))
        self._span_records.set(sum(part.position - part.lowest_unapplied() for part in partitions))
        self._partitions.set(len(partitions))
        self._postgres_up.set(postgres_up)
        self._redis_up.set(redis_up)
        self._redis_full.set(redis_full)
