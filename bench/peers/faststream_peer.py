"""A peer with FastStream on confluent-kafka and a batch subscriber. Two of these processes are one peer."""

import asyncio
import logging
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker

from bench.peers.batch import Statements, write_batch
from bench.peers.config import PeerConfig, read_config
from bench.peers.event import decode_event
from sluice.db.connection import BATCH_PLANS, Session

SCHEMA = "bench_fast"
GUARANTEE = "effectively once per event id, order by partition; a bad event and its batch are retried forever"
MAX_RECORDS = 500  # the same as for the handwritten consumer
POLL_SECONDS = 0.05  # maximum time to collect a batch, unless MAX_RECORDS arrive before


def main() -> None:
    """Consumes until SIGTERM, which FastStream handles."""
    asyncio.run(build_app(read_config("fast")).run(log_level=logging.WARNING))


def build_app(config: PeerConfig) -> FastStream:
    """Returns the app with its subscriber, not yet connected."""
    # For the highest speed, the framework neither validates nor decodes.
    broker = KafkaBroker(config.bootstrap_servers, apply_types=False, logger=None)
    session = Session(config.database_url, application_name=SCHEMA, plans=BATCH_PLANS)
    statements = Statements(SCHEMA)

    @broker.subscriber(
        config.topic,
        batch=True,
        group_id=config.group,
        auto_offset_reset="earliest",
        max_records=MAX_RECORDS,
        polling_interval=POLL_SECONDS,
        fetch_min_bytes=65_536,
        fetch_max_wait_ms=10,
        isolation_level="read_committed",
        ack_policy=AckPolicy.NACK_ON_ERROR,
        decoder=keep_raw,
    )
    async def handle(messages: Any) -> None:
        # Runs in the event loop, because this process has no other work, and a thread would cost a switch.
        events = [decode_event(m.topic(), m.partition(), m.offset(), m.key(), m.value()) for m in messages]
        write_batch(session, statements, events)

    return FastStream(broker, after_shutdown=[session.close], logger=None)


async def keep_raw(message: Any) -> Any:
    """Returns the records as confluent-kafka returned them."""
    return message.raw_message


if __name__ == "__main__":
    main()
