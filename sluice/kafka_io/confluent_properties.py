"""The properties of librdkafka that are the same for the clients of every bridge."""

from collections.abc import Mapping
from typing import Any

from sluice.kafka_io.config import (
    FETCH_MAX_BYTES,
    FETCH_MAX_WAIT_MS,
    FETCH_MIN_BYTES,
    HEARTBEAT_INTERVAL_MS,
    LOG_LEVEL_CRITICAL,
    MAX_POLL_INTERVAL_MS,
    METADATA_MAX_AGE_MS,
    RECONNECT_BACKOFF_MAX_MS,
    SESSION_TIMEOUT_MS,
    SOCKET_TIMEOUT_MS,
)

# If a topic is re-created, librdkafka continues to read at the old position, without an error. But its fetch
# from the deleted topic fails first, and its next fetch follows after this time. If the facts of the topic
# are younger than this time when records are returned, they were requested after the failed fetch. Therefore
# they describe the new topic, or no topic.
FETCH_ERROR_BACKOFF_MS = 1_000

CONNECTION_PROPERTIES: Mapping[str, Any] = {
    "topic.metadata.refresh.interval.ms": METADATA_MAX_AGE_MS,
    "socket.timeout.ms": SOCKET_TIMEOUT_MS,
    "reconnect.backoff.max.ms": RECONNECT_BACKOFF_MAX_MS,
    "log_level": LOG_LEVEL_CRITICAL,
}

CONSUMER_PROPERTIES: Mapping[str, Any] = {
    # The bridge reads its positions from Postgres; an automatic reset of a position would skip records.
    "auto.offset.reset": "error",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "fetch.min.bytes": FETCH_MIN_BYTES,
    "fetch.wait.max.ms": FETCH_MAX_WAIT_MS,
    "fetch.max.bytes": FETCH_MAX_BYTES,
    "fetch.error.backoff.ms": FETCH_ERROR_BACKOFF_MS,
    # The client reads ahead into a buffer of this size. If the buffer is full, the client waits, by default
    # for a second. With that default, a backlog was read at 12 MB/s instead of 100.
    "queued.max.messages.kbytes": FETCH_MAX_BYTES // 1024,
    "fetch.queue.backoff.ms": FETCH_MAX_WAIT_MS,
    "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
    "session.timeout.ms": SESSION_TIMEOUT_MS,
    "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
}
