"""How repeated events of a topic are recognised (`dedup`), and the offsets from which each mode applies.

The stored mode is used, not the declared one. It changes only together with the epoch of its entity type, so
a record of a known epoch has a known mode.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array


class StoredModes(NamedTuple):
    """The modes of an entity type's topics. A topic that an earlier version registered has the mode None."""

    epoch: int
    modes: Mapping[str, str | None]


READ_MODES = Statement(
    "read_dedup_modes",
    """
    SELECT e.epoch,
           coalesce((SELECT jsonb_object_agg(t.topic, t.dedup)
                     FROM sluice.topics t WHERE t.entity = e.entity), '{}')
    FROM sluice.entities e WHERE e.entity = $1
    """,
    ("text",),
)


def read_modes(session: Session, entity: str) -> StoredModes | None:
    """Returns the modes of an entity type's topics; None if the entity type has no row."""
    rows = session.run(READ_MODES, entity)
    return StoredModes(*rows[0]) if rows else None


READ_ALL_MODES = Statement("read_all_dedup_modes", "SELECT topic, dedup FROM sluice.topics")


def read_all_modes(session: Session) -> dict[str, str | None]:
    """Returns topic → its stored mode, for all registered topics."""
    return dict(session.run(READ_ALL_MODES))


class DedupStart(NamedTuple):
    """The mode of the records from an offset on, up to the next start of the partition."""

    first_offset: int
    dedup: str


READ_STARTS = Statement(
    "read_dedup_starts",
    """
    SELECT first_offset, dedup FROM sluice.dedup_starts
    WHERE topic_id = $1 AND partition = $2 ORDER BY first_offset
    """,
    ("text", "int"),
)


def read_starts(session: Session, topic_id: str, partition: int) -> list[DedupStart]:
    """Returns the starts of a partition, in order. Records below the first start have stored identities, or
    bridges began to read behind them."""
    return [DedupStart(*row) for row in session.run(READ_STARTS, topic_id, partition)]


SET_MODE = Statement("set_dedup", "UPDATE sluice.topics SET dedup = $2 WHERE topic = $1", ("text", "text"))
# A record below the watermark has an outcome under the former mode.
INSERT_STARTS = Statement(
    "insert_dedup_starts",
    """
    INSERT INTO sluice.dedup_starts (topic, topic_id, partition, first_offset, dedup)
    SELECT t.topic, t.topic_id, p.partition, p.watermark, t.dedup
    FROM sluice.topics t JOIN sluice.partition_watermarks p ON p.topic = t.topic
    WHERE t.topic = $1
    ON CONFLICT (topic_id, partition, first_offset) DO UPDATE SET dedup = excluded.dedup
    """,
    ("text",),
)


def change_mode(session: Session, topic: str, dedup: str) -> None:
    """Stores the mode, from the watermark of each partition on.

    Requires all locks of the entity type, no record in flight, and a new epoch.
    """
    session.run(SET_MODE, topic, dedup)
    session.run(INSERT_STARTS, topic)


# Partitions that are registered for the first time. A topic with identities needs no starts: a record from
# before the first read has no identity.
INSERT_FIRST_STARTS = Statement(
    "insert_first_dedup_starts",
    """
    INSERT INTO sluice.dedup_starts (topic, topic_id, partition, first_offset, dedup)
    SELECT t.topic, t.topic_id, p.partition, p.watermark, t.dedup
    FROM sluice.topics t JOIN sluice.partition_watermarks p ON p.topic = t.topic
    WHERE t.topic = $1 AND t.dedup IN ('natural', 'position') AND NOT EXISTS (
        SELECT FROM sluice.dedup_starts s WHERE s.topic_id = t.topic_id AND s.partition = p.partition
    )
    """,
    ("text",),
)


def insert_first_starts(session: Session, topic: str) -> None:
    """Stores where reading began, for the partitions without a start. Idempotent.

    Changes nothing for a topic with identities.
    """
    session.run(INSERT_FIRST_STARTS, topic)


DELETE_STARTS = Statement(
    "delete_dedup_starts", "DELETE FROM sluice.dedup_starts WHERE topic = $1", ("text",)
)


def restart_modes(session: Session, topic: str) -> None:
    """Applies the current mode to all records that are read from now on.

    Requires all locks of the entity type.
    """
    session.run(DELETE_STARTS, topic)
    insert_first_starts(session, topic)


REPLACE_STARTS = Statement(
    "replace_dedup_starts",
    """
    WITH removed AS (
        DELETE FROM sluice.dedup_starts s USING unnest($2, $3) AS d (partition, first_offset)
        WHERE s.topic = $1 AND s.partition = d.partition AND s.first_offset > d.first_offset
    )
    INSERT INTO sluice.dedup_starts (topic, topic_id, partition, first_offset, dedup)
    SELECT t.topic, t.topic_id, d.partition, d.first_offset, t.dedup
    FROM sluice.topics t, unnest($2, $3) AS d (partition, first_offset)
    WHERE t.topic = $1
    ON CONFLICT (topic_id, partition, first_offset) DO UPDATE SET dedup = excluded.dedup
    """,
    ("text", "int[]", "bigint[]"),
)


def continue_modes(session: Session, topic: str, starts: Mapping[int, int]) -> None:
    """Applies the current mode from these offsets on. Earlier records keep their modes.

    Requires all locks of the entity type, and a topic without identities.
    """
    if starts:
        session.run(REPLACE_STARTS, topic, bare_array(starts), bare_array(starts.values()))
    insert_first_starts(session, topic)


def mode_at(starts: Sequence[DedupStart], offset: int) -> str | None:
    """Returns the mode of the record at an offset; None below the first start. Pure."""
    return next((one.dedup for one in reversed(starts) if one.first_offset <= offset), None)
