"""Peer: FastStream on confluent-kafka, a batch subscriber. Two such processes are one peer."""

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
GUARANTEE = (
    "effectively once per event id, order by partition; one bad event is tried again for ever with its batch"
)
MAX_RECORDS = 500  # as for the consumer written by hand
POLL_SECONDS = 0.05  # it collects for so long, or until MAX_RECORDS


def main() -> None:
    """Consumes until SIGTERM, which FastStream handles."""
    asyncio.run(build_app(read_config("fast")).run(log_level=logging.WARNING))


def build_app(config: PeerConfig) -> FastStream:
    """The app with its one subscriber; nothing is connected yet."""
    # Neither validation nor decoding by the framework: the quickest it can be made.
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
        # In the loop itself: this process has nothing else to do meanwhile, and a thread costs a switch.
        events = [decode_event(m.topic(), m.partition(), m.offset(), m.key(), m.value()) for m in messages]
        write_batch(session, statements, events)

    return FastStream(broker, after_shutdown=[session.close], logger=None)


async def keep_raw(message: Any) -> Any:
    """The records as confluent-kafka gave them."""
    return message.raw_message


if __name__ == "__main__":
    main()
