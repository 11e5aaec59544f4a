"""Reads facts for `sluice doctor`: server settings, users' columns, registered topics and queues."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sluice.db.admin.totals import read_positions, read_queues, read_topic_ids
from sluice.db.connection import Session, Statement
from sluice.db.delivery.dedup_modes import read_all_modes
from sluice.db.delivery.progress import ONE_SNAPSHOT
from sluice.db.delivery.switches import read_paused_topics


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the server, as this connection reads them. `version` is the major version."""

    version: int
    fsync: str
    synchronous_commit: str
    read_only: str = ""
    """The reason why the server is read-only; an empty text if the server accepts writes."""
    max_wal_bytes: int = 0
    """The setting max_wal_size."""
    identity_bytes: int = 0
    """The size of the unique index of identities; 0 if it is missing."""


@dataclass(frozen=True)
class Registered:
    """A snapshot of Sluice's own tables."""

    shards: Mapping[str, int]
    """Entity type → its current shard count."""
    queues: Mapping[str, str | None]
    """Queue → the reason why it is halted, or None."""
    topic_ids: Mapping[str, str]
    partitions: Mapping[str, int]
    """Topic → number of partitions with a watermark."""
    paused_topics: Mapping[str, str] = field(default_factory=dict)
    """Topic → the reason why an operator paused it."""
    dedup: Mapping[str, str | None] = field(default_factory=dict)
    """Topic → its stored mode."""


class EventsWithoutId(NamedTuple):
    """The number of a topic's events without an id, and how many of these events are dead letters now."""

    topic: str
    events: int
    letters: int


class NarrowedQueue(NamedTuple):
    """A queue whose transactions fail at one record, although no event is at fault.

    `batch_limit`: the most events per transaction, which is set after many failures; None without a limit.
    """

    queue: str
    topic: str
    partition: int
    offset: int
    batch_limit: int | None
    error: str
    seconds: float
    """Seconds since the newest failure, or since the newest success with a limit."""


READ_NARROWED = Statement(
    "read_narrowed",
    """
    SELECT queue, topic, partition, "offset", batch_limit, error,
           extract(epoch FROM now() - failed_at)::float8
    FROM sluice.queue_failures ORDER BY queue
    """,
)


def read_narrowed_queues(session: Session) -> list[NarrowedQueue]:
    """Returns the queues whose newest transactions failed, although no event was at fault."""
    return [NarrowedQueue(*row) for row in session.run(READ_NARROWED)]


READ_SERVER = Statement(
    "read_server",
    """
    SELECT current_setting('server_version_num')::int / 10000, current_setting('fsync'),
           current_setting('synchronous_commit'),
           CASE WHEN pg_is_in_recovery() THEN 'it is a standby'
                WHEN current_setting('transaction_read_only') = 'on'
                THEN 'default_transaction_read_only is on'
                ELSE '' END,
           pg_size_bytes(current_setting('max_wal_size')),
           coalesce(pg_relation_size(to_regclass('sluice.processed_events_pkey')), 0)
    """,
)


def read_server(session: Session) -> ServerSettings:
    """Returns the server's settings, including the settings that make commits durable."""
    return ServerSettings(*session.run(READ_SERVER)[0])


READ_USER_COLUMNS = Statement(
    "read_user_columns",
    """
    SELECT c.relname::text, a.attname::text
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
      AND a.attnum > 0 AND NOT a.attisdropped
    """,
)


def read_user_columns(session: Session) -> dict[str, frozenset[str]]:
    """Returns each table of schema `public` → its columns."""
    found: dict[str, set[str]] = {}
    for table, column in session.run(READ_USER_COLUMNS):
        found.setdefault(table, set()).add(column)
    return {table: frozenset(columns) for table, columns in found.items()}


READ_SHARDS = Statement("read_shards", "SELECT entity, shards FROM sluice.entities ORDER BY entity")


def read_shards(session: Session) -> dict[str, int]:
    """Returns entity type → its current shard count."""
    return dict(session.run(READ_SHARDS))


def read_registered(session: Session) -> Registered:
    """Returns the entity types, queues, topics and partitions in Sluice's own tables, in one snapshot."""
    with session.transaction(f"{ONE_SNAPSHOT} READ ONLY"):
        partitions: dict[str, int] = {}
        for topic, _ in read_positions(session):
            partitions[topic] = partitions.get(topic, 0) + 1
        return Registered(
            shards=read_shards(session),
            queues={name: state.halted_reason for name, state in read_queues(session).items()},
            topic_ids=read_topic_ids(session),
            partitions=partitions,
            paused_topics=read_paused_topics(session),
            dedup=read_all_modes(session),
        )


READ_EVENTS_WITHOUT_ID = Statement(
    "read_events_without_id",
    """
    SELECT l.topic, sum(l.without_id)::bigint,
           (SELECT count(*) FROM sluice.dead_letters d
            WHERE d.state = 'dead' AND d.topic = l.topic AND d.error_class = 'EventIdMissing')
    FROM sluice.lane_offsets l GROUP BY l.topic HAVING sum(l.without_id) > 0 ORDER BY l.topic
    """,
)


def read_events_without_id(session: Session) -> list[EventsWithoutId]:
    """Returns the topics that had events without an id."""
    return [EventsWithoutId(*row) for row in session.run(READ_EVENTS_WITHOUT_ID)]
