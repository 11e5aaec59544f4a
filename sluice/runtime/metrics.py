"""The catalogue of metrics: what each is called, counts and means, and who exports it. Pure.

Code makes metrics of these declarations alone (`exposition.py`); `docs/metrics.md` is the same table for
people.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

# Seconds of a batch: from one record that is there already to a transaction that was tried for 20 s.
BATCH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)


class Exporter(Enum):
    """Which process shows a metric; the value is how `docs/metrics.md` names it."""

    BRIDGE = "bridge"
    WORKER = "worker"
    RELAY = "worker, relay"
    BEAT = "beat"
    LEADER = "beat that leads"


@dataclass(frozen=True)
class Metric:
    """One metric. `name` is whole, as it is scraped; it ends with `unit`, which is empty for a 0 or 1."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    exporter: Exporter
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(exporter: Exporter, name: str, unit: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"sluice_{name}_total", "counter", unit, exporter, meaning, labels)


def _gauge(exporter: Exporter, name: str, unit: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"sluice_{name}", "gauge", unit, exporter, meaning, labels)


BRIDGE_READ_RECORDS = _counter(
    Exporter.BRIDGE, "bridge_read_records", "records", "records taken from Kafka", "topic"
)
BRIDGE_PUBLISHED_MESSAGES = _counter(
    Exporter.BRIDGE, "bridge_published_messages", "messages", "messages put on Redis lists"
)
BRIDGE_PUBLISHED_RECORDS = _counter(
    Exporter.BRIDGE,
    "bridge_published_records",
    "records",
    "records in these messages, each time they are sent",
)
BRIDGE_RESENT_LANES = _counter(
    Exporter.BRIDGE,
    "bridge_resent_lanes",
    "lanes",
    "lanes sent again, by why: overtaken, silent, stuck, halted, wiped",
    "reason",
)
BRIDGE_HELD_BYTES = _gauge(
    Exporter.BRIDGE, "bridge_held_bytes", "bytes", "records held until they are applied"
)
BRIDGE_SPAN_RECORDS = _gauge(
    Exporter.BRIDGE, "bridge_span_records", "records", "how far it has read ahead of the watermarks"
)
BRIDGE_PARTITIONS = _gauge(Exporter.BRIDGE, "bridge_partitions", "partitions", "partitions it has started")
BRIDGE_POSTGRES_UP = _gauge(Exporter.BRIDGE, "bridge_postgres_up", "", "whether Postgres answers this bridge")
BRIDGE_REDIS_UP = _gauge(Exporter.BRIDGE, "bridge_redis_up", "", "whether Redis answers this bridge")
BRIDGE_KAFKA_ERRORS = _counter(
    Exporter.BRIDGE,
    "bridge_kafka_errors",
    "errors",
    "errors that its Kafka client reported, by their name in Kafka's protocol or in the client",
    "code",
)
BRIDGE_PARTITION_PROBLEM = _gauge(
    Exporter.BRIDGE,
    "bridge_partition_problem",
    "",
    "1 for a partition that it knows not to be read, by why",
    "topic",
    "partition",
    "problem",
)
BRIDGE_REDIS_FULL = _gauge(
    Exporter.BRIDGE,
    "bridge_redis_full",
    "",
    "whether Redis refuses messages of this bridge: it is full, or takes no writes",
)
BRIDGE_UNREADABLE_RECORD_OFFSET = _gauge(
    Exporter.BRIDGE,
    "bridge_unreadable_record_offset",
    "",
    "offset of the record that its Kafka client cannot read, of a partition that stands there",
    "topic",
    "partition",
)

WORKER_BATCH_SECONDS = Metric(
    "sluice_worker_batch_seconds",
    "histogram",
    "seconds",
    Exporter.WORKER,
    "processing time per batch, for every outcome",
    buckets=BATCH_BUCKETS,
)
WORKER_RECORDS = _counter(
    Exporter.WORKER, "worker_records", "records", "records that got their outcome here", "outcome"
)
WORKER_MISSING_ID_EVENTS = _counter(
    Exporter.WORKER,
    "worker_missing_id_events",
    "events",
    'events without id that got their outcome here: dead letters, or with dedup="position" counted each time',
    "topic",
)
WORKER_ABORTED_BATCHES = _counter(
    Exporter.WORKER,
    "worker_aborted_batches",
    "batches",
    "batches aborted and resent later: Postgres did not answer in time, or the queue is halted",
)
WORKER_RETRIES = _counter(
    Exporter.WORKER,
    "worker_retries",
    "retries",
    "retries of events that were set aside, by result:"
    " applied, dead, refused, row_held, timed_out, unavailable",
    "result",
)
WORKER_DROPPED_MESSAGES = _counter(
    Exporter.WORKER,
    "worker_dropped_messages",
    "messages",
    "messages dropped without effect, by reason: forged, unreadable, too large, and others",
    "reason",
)
WORKER_LEASED_QUEUES = _gauge(
    Exporter.WORKER, "worker_leased_queues", "queues", "queues this worker holds; only without `-Q`"
)

RELAY_SENT_RECORDS = _counter(
    Exporter.RELAY, "relay_sent_records", "records", "outgoing events that Kafka acknowledged"
)
RELAY_RUNS = _counter(Exporter.RELAY, "relay_runs", "runs", "relay runs")

PURGED_ROWS = _counter(
    Exporter.RELAY,
    "purged_rows",
    "rows",
    "rows deleted or emptied after their retention,"
    " by kind: calls, call arguments, dead letters, identities of a topic",
    "kind",
)
PURGE_FAILURES = _counter(
    Exporter.RELAY,
    "purge_failures",
    "failures",
    "times that a kind could not be purged, by kind; the other kinds are",
    "kind",
)

BEAT_LEADS = _gauge(Exporter.BEAT, "beat_leads", "", "whether this beat is the one that schedules")
POSTGRES_UP = _gauge(
    Exporter.BEAT, "postgres_up", "", "whether Postgres answers; absent where another beat leads"
)

HALTED_TOPICS = _gauge(
    Exporter.LEADER,
    "halted_topics",
    "topics",
    "topics that no living worker has declared for ten minutes; their records wait",
)
HALTED_EFFECTS = _gauge(
    Exporter.LEADER,
    "halted_effects",
    "effects",
    "effects that no living worker has declared for ten minutes; their calls wait",
)
KAFKA_UP = _gauge(Exporter.LEADER, "kafka_up", "", "whether Kafka answers; absent while Postgres does not")
LAG_RECORDS = _gauge(
    Exporter.LEADER,
    "lag_records",
    "records",
    "records between the watermarks and the ends of the log",
    "topic",
)
OLDEST_UNAPPLIED_SECONDS = _gauge(
    Exporter.LEADER,
    "oldest_unapplied_seconds",
    "seconds",
    "age of the oldest record without an outcome; 0: none. Absent if it was not found in time",
    "topic",
)
PARTITION_UNREAD_SECONDS = _gauge(
    Exporter.LEADER,
    "partition_unread_seconds",
    "seconds",
    "how long no bridge has read a partition, by why; only of those that are not read, or not further",
    "topic",
    "partition",
    "reason",
)
OUTBOX_RECORDS = _gauge(Exporter.LEADER, "outbox_records", "records", "outgoing events that are not sent")
OUTBOX_OLDEST_SECONDS = _gauge(
    Exporter.LEADER,
    "outbox_oldest_seconds",
    "seconds",
    "age of the oldest outgoing event that is not sent; 0: none",
)
REFUSED_RECORDS = _gauge(
    Exporter.LEADER, "refused_records", "records", "outgoing events that Kafka refuses for good"
)
DEAD_LETTERS = _gauge(
    Exporter.LEADER,
    "dead_letters",
    "letters",
    "records not applied, by state: dead, conflict, waiting",
    "state",
)
PROJECTION_LETTERS = _gauge(
    Exporter.LEADER,
    "projection_letters",
    "letters",
    "events that the live generation of a projection could not take",
)
STOPPED_GENERATIONS = _gauge(
    Exporter.LEADER,
    "stopped_generations",
    "generations",
    "generations of projections to which nothing is fed until they are resumed",
)
RETRYING_EVENTS = _gauge(
    Exporter.LEADER, "retrying_events", "events", "events that were set aside and are retried by themselves"
)
PARKED_ENTITIES = _gauge(
    Exporter.LEADER, "parked_entities", "entities", "entities whose later events wait behind a dead letter"
)
CALLS = _gauge(
    Exporter.LEADER,
    "calls",
    "calls",
    "calls that have not succeeded, by state: pending, running, failed, uncertain; what became of calls is"
    " exported here alone, since the processes that make them are children of their worker",
    "state",
)
OLDEST_DUE_CALL_SECONDS = _gauge(
    Exporter.LEADER, "oldest_due_call_seconds", "seconds", "how long the oldest call that is due waits"
)
CALLS_PAUSED = _gauge(Exporter.LEADER, "calls_paused", "", "whether an operator stopped all calls")
HALTED_QUEUES = _gauge(Exporter.LEADER, "halted_queues", "queues", "queues whose deployment is wrong")
SHARING_WORKERS = _gauge(
    Exporter.LEADER, "sharing_workers", "workers", "workers that share the queues: those without `-Q`"
)
CLOCK_OFFSET_SECONDS = _gauge(
    Exporter.LEADER,
    "clock_offset_seconds",
    "seconds",
    "how far the clocks of living processes are from that of Postgres, at most, by kind:"
    " bridge, worker, beat",
    "kind",
)
UNLEASED_QUEUES = _gauge(
    Exporter.LEADER,
    "unleased_queues",
    "queues",
    "queues that no worker holds by a lease: all of them where every worker has its `-Q`",
)

CATALOGUE = tuple(found for found in list(globals().values()) if isinstance(found, Metric))
