"""A peer with the handwritten consumer and Sluice's own decoding, handlers, fold and tables.

(The fold computes the rows that a batch writes.) The peer lacks the safe transport of events: the
guard, queues, workers, and the retry event by event. So the difference between the peer and Sluice
is the cost of that transport.
"""

import os
import signal
import threading
from types import FrameType

from kafka import KafkaConsumer

from bench.app import HANDLERS
from bench.peers.config import PeerConfig, read_config
from bench.peers.group_poll import poll_group
from bench.peers.handwritten import MAX_RECORDS
from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.projections.generations import NO_PROJECTIONS
from sluice.kafka_io.record_types import Record
from sluice.runtime.gc_tuning import tune_gc
from sluice.tasks.apply.batch_writer import CHECK_CONSTRAINTS
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.fold_io import FoldIO
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.plan import Planned, plan_event
from sluice.tasks.fold.registry import Registry, collect_handlers

GUARANTEE = "effectively once per event id, order by partition; one bad event stops the process permanently"
ENTITY = "account"
# Each process has its own queue. In a common queue, two writers without a common lock would commit out of
# order, and the relay would skip late rows.
QUEUE = f"bench.by-hand.{os.getpid()}"
KNOW_QUEUE = f"INSERT INTO sluice.relay_progress (queue, sent_through) VALUES ('{QUEUE}', 0)"
TOPIC_ID = "by-hand"  # not used: only the identity of a record without an event id contains it


def main() -> None:
    """Consumes until SIGTERM."""
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    run(read_config("fold"), collect_handlers(HANDLERS), stopped)


def run(config: PeerConfig, registry: Registry, stopped: threading.Event) -> None:
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
    session = Session(config.database_url, application_name="bench_fold", plans=BATCH_PLANS)
    session.command(KNOW_QUEUE)
    tune_gc()  # as Sluice's worker does
    try:
        while not stopped.is_set():
            run_once(consumer, session, registry)
    finally:
        consumer.close(autocommit=False)
        session.close()


def run_once(consumer: KafkaConsumer, session: Session, registry: Registry) -> int:
    """Polls once, writes one transaction and commits the offsets. Returns the number of records."""
    polled = poll_group(consumer)
    planned = [
        _plan(registry, r.topic, r.partition, Record(r.offset, r.timestamp, r.key, r.value, list(r.headers)))
        for records in polled.values()
        for r in records
    ]
    if planned:
        with session.transaction():
            store = FoldIO(session, ENTITY, NO_PROJECTIONS, erasures=Erasures(session))
            memory = store.load(planned)
            folded = fold(planned, memory)
            store.write_back(QUEUE, memory, folded)
            session.command(CHECK_CONSTRAINTS)
        consumer.commit()
    return len(planned)


def _plan(registry: Registry, topic: str, partition: int, record: Record) -> Planned:
    declared = registry.topics[topic]
    return plan_event(registry, declared, decode(declared, TOPIC_ID, partition, record))


if __name__ == "__main__":
    main()
