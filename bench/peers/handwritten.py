"""A peer with a handwritten batch consumer on kafka-python, without Celery. Two processes are one peer."""

import signal
import threading
from types import FrameType

from kafka import KafkaConsumer

from bench.peers.batch import Statements, write_batch
from bench.peers.config import PeerConfig, read_config
from bench.peers.event import decode_event
from bench.peers.group_poll import poll_group
from sluice.db.connection import BATCH_PLANS, Session

SCHEMA = "bench_hand"
GUARANTEE = "effectively once per event id, order by partition; one bad event stops the process permanently"
MAX_RECORDS = 500  # records per transaction: more is not faster and holds locks longer


def main() -> None:
    """Consumes until SIGTERM."""
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    run(read_config("hand"), stopped)


def run(config: PeerConfig, stopped: threading.Event) -> None:
    """Polls, writes and commits offsets until `stopped`. After an error, a restart reads from the commit."""
    consumer = KafkaConsumer(
        config.topic,
        bootstrap_servers=config.bootstrap_servers.split(","),
        group_id=config.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_poll_records=MAX_RECORDS,
        fetch_min_bytes=65_536,
        fetch_max_wait_ms=10,
    )
    session = Session(config.database_url, application_name=SCHEMA, plans=BATCH_PLANS)
    statements = Statements(SCHEMA)
    try:
        while not stopped.is_set():
            run_once(consumer, session, statements)
    finally:
        consumer.close(autocommit=False)
        session.close()


def run_once(consumer: KafkaConsumer, session: Session, statements: Statements) -> int:
    """Polls once, writes one transaction and commits the offsets. Returns the number of records."""
    polled = poll_group(consumer)
    events = [
        decode_event(record.topic, record.partition, record.offset, record.key, record.value)
        for records in polled.values()
        for record in records
    ]
    if events:
        write_batch(session, statements, events)
        consumer.commit()
    return len(events)


if __name__ == "__main__":
    main()
