"""The catalogue of metrics: their names, kinds, units and meanings, and the processes that export them. Pure.

`exposition.py` makes metrics only from these declarations; `docs/metrics.md` shows the same table.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

# Bounds in seconds for the time of a batch. The fastest batch has one record that was applied before. The
# slowest is a transaction that was retried for 20 s.
BATCH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)


class Exporter(Enum):
    """The process that exports a metric; the value is its name in `docs/metrics.md`."""

    EVERY = "every process"
    BRIDGE = "bridge"
    WORKER = "worker"
    RELAY = "worker, relay"
    BEAT = "beat"
    LEADER = "beat that leads"


@dataclass(frozen=True)
class Metric:
    """One metric. `name` is the exported name; it ends with `unit`, which is empty for a 0 or 1."""

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


SERVER_UP = _gauge(
    Exporter.EVERY,
    "server_up",
    "",
    "1 if the server accepts a login of this process and answers; 0 if not, by server: postgres, redis, and"
    " for bridge, relay, rebuild worker and beat kafka",
    "server",
)

BRIDGE_READ_RECORDS = _counter(
    Exporter.BRIDGE, "bridge_read_records", "records", "records read from Kafka", "topic"
)
BRIDGE_PUBLISHED_MESSAGES = _counter(
    Exporter.BRIDGE, "bridge_published_messages", "messages", "messages pushed to Redis lists"
)
BRIDGE_PUBLISHED_RECORDS = _counter(
    Exporter.BRIDGE,
    "bridge_published_records",
    "records",
    "records in published messages; a resent record counts again",
)
BRIDGE_RESENT_LANES = _counter(
    Exporter.BRIDGE,
    "bridge_resent_lanes",
    "lanes",
    "lanes sent again, by reason: overtaken, silent, stuck, halted, wiped",
    "reason",
)
BRIDGE_HELD_BYTES = _gauge(
    Exporter.BRIDGE,
    "bridge_held_bytes",
    "bytes",
    "size of the records that this bridge keeps in memory until they are applied",
)
BRIDGE_SPAN_RECORDS = _gauge(
    Exporter.BRIDGE,
    "bridge_span_records",
    "records",
    "records between the watermarks and the offsets up to which this bridge has read",
)
BRIDGE_PARTITIONS = _gauge(
    Exporter.BRIDGE, "bridge_partitions", "partitions", "partitions that this bridge has started"
)
BRIDGE_POSTGRES_UP = _gauge(Exporter.BRIDGE, "bridge_postgres_up", "", "1 if Postgres answers this bridge")
BRIDGE_REDIS_UP = _gauge(Exporter.BRIDGE, "bridge_redis_up", "", "1 if Redis answers this bridge")
BRIDGE_KAFKA_ERRORS = _counter(
    Exporter.BRIDGE,
    "bridge_kafka_errors",
    "errors",
    "errors that the bridge's Kafka client reported, by their name in Kafka's protocol or in the client",
    "code",
)
BRIDGE_PARTITION_PROBLEM = _gauge(
    Exporter.BRIDGE,
    "bridge_partition_problem",
    "",
    "1 for each partition that is not read, by problem",
    "topic",
    "partition",
    "problem",
)
BRIDGE_REDIS_FULL = _gauge(
    Exporter.BRIDGE,
    "bridge_redis_full",
    "",
    "1 if Redis refuses messages of this bridge, because Redis is full or read-only",
)
BRIDGE_UNREADABLE_RECORD_OFFSET = _gauge(
    Exporter.BRIDGE,
    "bridge_unreadable_record_offset",
    "",
    "offset of the record at which a partition stopped,"
    " because the bridge's Kafka client cannot read this record",
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
    Exporter.WORKER,
    "worker_records",
    "records",
    "records to which this worker gave an outcome, by outcome",
    "outcome",
)
WORKER_MISSING_ID_EVENTS = _counter(
    Exporter.WORKER,
    "worker_missing_id_events",
    "events",
    "deliveries of events without id, which become dead letters,"
    ' or are applied if the topic has dedup="position"',
    "topic",
)
WORKER_ABORTED_BATCHES = _counter(
    Exporter.WORKER,
    "worker_aborted_batches",
    "batches",
    "batches that were aborted and are sent again,"
    " because Postgres did not answer in time or the queue is halted",
)
WORKER_TRANSACTIONS = _counter(
    Exporter.WORKER,
    "worker_transactions",
    "transactions",
    "transactions that settled events, by way: optimistic, exact, singly,"
    " or rolled back (an optimistic attempt, after which another way settles the events)",
    "way",
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
    Exporter.WORKER,
    "worker_leased_queues",
    "queues",
    "queues that this worker holds by a lease; absent for a worker with `--queues`",
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
    "failed purges, by kind of row; a failure of one kind does not stop the others",
    "kind",
)

BEAT_LEADS = _gauge(Exporter.BEAT, "beat_leads", "", "1 if this beat leads and schedules tasks")
POSTGRES_UP = _gauge(Exporter.BEAT, "postgres_up", "", "1 if Postgres answers; absent if another beat leads")

HALTED_TOPICS = _gauge(
    Exporter.LEADER,
    "halted_topics",
    "topics",
    "topics that no running worker has declared for ten minutes; their records wait",
)
HALTED_EFFECTS = _gauge(
    Exporter.LEADER,
    "halted_effects",
    "effects",
    "effects that no running worker has declared for ten minutes; their calls wait",
)
KAFKA_UP = _gauge(
    Exporter.LEADER, "kafka_up", "", "1 if Kafka answers; absent while Postgres does not answer"
)
LAG_RECORDS = _gauge(
    Exporter.LEADER,
    "lag_records",
    "records",
    "records between the watermarks and the ends of the topic's partitions",
    "topic",
)
OLDEST_UNAPPLIED_SECONDS = _gauge(
    Exporter.LEADER,
    "oldest_unapplied_seconds",
    "seconds",
    "age of the oldest record without an outcome; 0 if all records have outcomes;"
    " absent if this record was not found in time",
    "topic",
)
PARTITION_UNREAD_SECONDS = _gauge(
    Exporter.LEADER,
    "partition_unread_seconds",
    "seconds",
    "time since a bridge last read a partition, by reason;"
    " only for partitions that are not read or do not advance",
    "topic",
    "partition",
    "reason",
)
OUTBOX_RECORDS = _gauge(Exporter.LEADER, "outbox_records", "records", "outgoing events not yet sent")
OUTBOX_OLDEST_SECONDS = _gauge(
    Exporter.LEADER,
    "outbox_oldest_seconds",
    "seconds",
    "age of the oldest outgoing event not yet sent; 0 if all are sent",
)
REFUSED_RECORDS = _gauge(
    Exporter.LEADER, "refused_records", "records", "outgoing events that Kafka refuses permanently"
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
    "events that the live generation of a projection could not apply",
)
STOPPED_GENERATIONS = _gauge(
    Exporter.LEADER,
    "stopped_generations",
    "generations",
    "generations of projections that get no events until an operator resumes them",
)
RETRYING_EVENTS = _gauge(
    Exporter.LEADER, "retrying_events", "events", "events that were set aside and are retried automatically"
)
PARKED_ENTITIES = _gauge(
    Exporter.LEADER, "parked_entities", "entities", "entities whose later events wait behind a dead letter"
)
CALLS = _gauge(
    Exporter.LEADER,
    "calls",
    "calls",
    "calls that have not succeeded, by state: pending, running, failed, uncertain;"
    " effect workers export no metrics of calls",
    "state",
)
OLDEST_DUE_CALL_SECONDS = _gauge(
    Exporter.LEADER, "oldest_due_call_seconds", "seconds", "time since the oldest due call became due"
)
SHARE_PARTITIONS = _gauge(
    Exporter.LEADER,
    "share_partitions",
    "partitions",
    "registered partitions; the label is the share K/N that the installation takes",
    "share",
)
CALLS_PAUSED = _gauge(Exporter.LEADER, "calls_paused", "", "1 if an operator paused all calls")
HALTED_QUEUES = _gauge(
    Exporter.LEADER, "halted_queues", "queues", "queues that are halted because of a wrong deployment"
)
SHARING_WORKERS = _gauge(
    Exporter.LEADER, "sharing_workers", "workers", "workers that share the queues (without `--queues`)"
)
CLOCK_OFFSET_SECONDS = _gauge(
    Exporter.LEADER,
    "clock_offset_seconds",
    "seconds",
    "largest difference between a running process's clock and that of Postgres, by kind:"
    " bridge, worker, beat",
    "kind",
)
UNLEASED_QUEUES = _gauge(
    Exporter.LEADER,
    "unleased_queues",
    "queues",
    "queues that no worker holds by a lease; all queues if every worker has `--queues`",
)

CATALOGUE = tuple(found for found in list(globals().values()) if isinstance(found, Metric))
