"""A peer with one Celery task per event and one transaction per task, the usual first version.

`python -m bench.peers.naive worker` runs a prefork worker with two processes. The argument `feed` instead of
`worker` runs the consumer that sends the tasks.
"""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import psycopg2
from celery import Celery
from kafka import KafkaConsumer
from sqlalchemy.engine import make_url

from bench.peers.batch import emitted_payload
from bench.peers.config import PeerConfig, read_config
from bench.peers.event import decode_event
from bench.peers.group_poll import poll_group
from bench.peers.schema import EMITTED_TOPIC, EMITTED_TYPE

SCHEMA = "bench_naive"
GUARANTEE = "once per event id as long as Redis keeps its data; no order; events that Redis loses are lost"
QUEUE = "bench-naive"
CONCURRENCY = 2

CLAIM = f"""
INSERT INTO {SCHEMA}.processed_events (identity, event_id, topic, "partition", "offset")
VALUES (%s, %s, %s, %s, %s) ON CONFLICT (identity) DO NOTHING
"""
UPSERT = f"""
INSERT INTO {SCHEMA}.rows AS r (key, version, amount_cents, note) VALUES (%s, %s, %s, %s)
ON CONFLICT (key) DO UPDATE
SET version = excluded.version, amount_cents = excluded.amount_cents, note = excluded.note
WHERE r.version < excluded.version
"""
EMIT = f"""
INSERT INTO {SCHEMA}.outbox_events (event_id, topic, key, type, headers, payload)
VALUES (%s, '{EMITTED_TOPIC}', %s, '{EMITTED_TYPE}', '{{}}', convert_to(%s, 'UTF8'))
"""

app = Celery("bench_naive")
app.conf.update(
    task_acks_late=True,
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
_connections: list[Any] = []
"""The connection of this worker process, if it is connected."""


@app.task(  # type: ignore[untyped-decorator]
    name="bench.naive", autoretry_for=(psycopg2.OperationalError,), retry_backoff=True, max_retries=None
)
def apply_event(topic: str, partition: int, offset: int, key: str, value: str) -> None:
    """Commits identity, row and outbox of one event. Idempotent by identity."""
    event = decode_event(topic, partition, offset, key.encode(), value.encode())
    connection = connect_once()
    with connection, connection.cursor() as cursor:
        cursor.execute(CLAIM, (event.identity, event.event_id, topic, partition, offset))
        if cursor.rowcount == 0:
            return
        cursor.execute(UPSERT, (event.key, event.version, event.amount_cents, event.note))
        cursor.execute(EMIT, (event.emitted_id, event.key, emitted_payload(event)))


def connect_once() -> Any:
    """Returns the connection of this worker process; connects if there is none or it is closed."""
    if not _connections or _connections[0].closed:
        url = make_url(read_config("naive").database_url).set(drivername="postgresql")
        _connections[:] = [psycopg2.connect(url.render_as_string(hide_password=False))]
    return _connections[0]


def feed(config: PeerConfig, stopped: threading.Event) -> None:
    """Sends one task per record, then commits the offsets, until `stopped`."""
    consumer = KafkaConsumer(
        config.topic,
        bootstrap_servers=config.bootstrap_servers.split(","),
        group_id=config.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    try:
        while not stopped.is_set():
            polled = poll_group(consumer)
            for records in polled.values():
                for r in records:
                    key, value = r.key.decode(), r.value.decode()
                    apply_event.delay(r.topic, r.partition, r.offset, key, value)
            if polled:
                consumer.commit()
    finally:
        consumer.close(autocommit=False)


def main() -> None:
    """Runs one of the two processes, named by the first argument: `worker` or `feed`."""
    config = read_config("naive")
    app.conf.broker_url = config.redis_url
    if sys.argv[1:] == ["worker"]:
        app.worker_main(["worker", "-c", str(CONCURRENCY), "-Q", QUEUE, "-l", "warning"])
        return
    if sys.argv[1:] != ["feed"]:
        sys.exit("usage: python -m bench.peers.naive worker|feed")
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    feed(config, stopped)


if __name__ == "__main__":
    main()
