"""`partition_reads`: the last time that each partition was read, and the problem that prevents reading.

The loop of every bridge writes these rows. A row belongs to a partition and not to a bridge. Therefore a
partition without a bridge stays visible, with the time when it was last read. Correctness does not depend on
the rows.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.db.values import bare_array, text_array
from sluice.runtime.place import Place

READ_SECONDS = 15
"""If no bridge has reported a partition as read for this time, the partition counts as unread."""
SEEN_SECONDS = 60
FORGOTTEN_HOURS = 24

# Rows are always written in the same order, so that two bridges cannot deadlock. A bridge may report a
# problem of a partition that another bridge reads now. Such a report is not stored.
WRITE_READS = Statement(
    "write_partition_reads",
    f"""
    INSERT INTO sluice.partition_reads AS p
        (topic, partition, read_at, reader, problem, detail, problem_offset, problem_since)
    SELECT topic, partition, CASE WHEN is_read THEN now() END, CASE WHEN is_read THEN $1 END,
           nullif(problem, ''), nullif(detail, ''), nullif("offset", -1),
           CASE WHEN problem <> '' THEN now() END
    FROM unnest($2, $3, $4, $5, $6, $7) AS given (topic, partition, is_read, problem, detail, "offset")
    ORDER BY topic, partition
    ON CONFLICT (topic, partition) DO UPDATE SET
        reported_at = now(),
        read_at = coalesce(excluded.read_at, p.read_at),
        reader = coalesce(excluded.reader, p.reader),
        problem = excluded.problem,
        detail = excluded.detail,
        problem_offset = excluded.problem_offset,
        problem_since = CASE
            WHEN p.problem = excluded.problem
                AND p.problem_offset IS NOT DISTINCT FROM excluded.problem_offset
            THEN p.problem_since ELSE excluded.problem_since
        END
    WHERE excluded.read_at IS NOT NULL OR p.reader = $1
       OR p.read_at IS NULL OR p.read_at < now() - interval '{READ_SECONDS} seconds'
    """,
    ("uuid", "text[]", "int[]", "boolean[]", "text[]", "text[]", "bigint[]"),
)

# Deletes a problem that no bridge reports any more: the problem is over, or its bridge has ended.
WRITE_SEEN = Statement(
    "write_partitions_seen",
    f"""
    INSERT INTO sluice.partition_reads AS p (topic, partition)
    SELECT topic, partition FROM unnest($1, $2) AS given (topic, partition)
    ORDER BY topic, partition
    ON CONFLICT (topic, partition) DO UPDATE SET
        reported_at = now(), problem = NULL, detail = NULL, problem_offset = NULL, problem_since = NULL
    WHERE p.reported_at < now() - interval '{SEEN_SECONDS} seconds'
    """,
    ("text[]", "int[]"),
)

FORGET_READS = Statement(
    "forget_partition_reads",
    f"""
    DELETE FROM sluice.partition_reads WHERE reported_at < now() - interval '{FORGOTTEN_HOURS} hours'
    """,
)


def write_partition_reads(
    session: Session,
    reader: UUID,
    *,
    reading: Iterable[Place],
    problems: Mapping[Place, PartitionProblem],
    seen: Iterable[Place] = (),
) -> None:
    """Writes the report of one bridge. Idempotent.

    `reading`: the partitions that this bridge reads. `problems`: the reasons why partitions are not read, and
    problems of partitions in `reading`. `seen`: all existing partitions, so that partitions without a bridge
    get a row. Rows that no bridge reported for FORGOTTEN_HOURS are deleted.
    """
    read = frozenset(reading)
    given = sorted(read | problems.keys())
    known = [problems.get(place) for place in given]
    if given:
        session.run(
            WRITE_READS,
            reader,
            text_array(topic for topic, _ in given),
            bare_array(partition for _, partition in given),
            text_array("true" if place in read else "false" for place in given),
            text_array("" if one is None else one.kind.value for one in known),
            text_array("" if one is None else one.detail for one in known),
            bare_array(-1 if one is None or one.offset is None else one.offset for one in known),
        )
    others = sorted(set(seen).difference(given))
    if others:
        session.run(
            WRITE_SEEN,
            text_array(topic for topic, _ in others),
            bare_array(partition for _, partition in others),
        )
    session.run(FORGET_READS)


CLEAR_STOPS = Statement(
    "clear_stops",
    """
    UPDATE sluice.partition_reads
    SET problem = NULL, detail = NULL, problem_offset = NULL, problem_since = NULL
    WHERE topic = $1 AND problem = 'stopped'
    """,
    ("text",),
)


def clear_stops(session: Session, topic: str) -> None:
    """Deletes the stops of a topic. If a reason remains, a bridge reports it again."""
    session.run(CLEAR_STOPS, topic)


class PartitionRead(NamedTuple):
    """The last report about a partition. Fields that end in `_seconds` are ages, by the clock of Postgres."""

    topic: str
    partition: int
    unread_seconds: float | None
    """Time for which no bridge has read the partition; None while a bridge reads it."""
    was_read: bool
    """True if a bridge has read the partition at any time."""
    reader: UUID | None
    """The bridge that read the partition last."""
    problem: ProblemKind | None
    detail: str | None
    problem_offset: int | None
    problem_since: datetime | None
    problem_seconds: float | None
    reported_seconds: float
    """Time since the last report of a bridge."""


READ_READS = Statement(
    "read_partition_reads",
    f"""
    SELECT topic, partition,
           CASE WHEN read_at IS NULL OR read_at < now() - interval '{READ_SECONDS} seconds'
                THEN extract(epoch FROM now() - coalesce(read_at, noted_at))::float8 END,
           read_at IS NOT NULL, reader, problem, detail, problem_offset, problem_since,
           extract(epoch FROM now() - problem_since)::float8,
           extract(epoch FROM now() - reported_at)::float8
    FROM sluice.partition_reads ORDER BY topic, partition
    """,
)


def read_partition_reads(session: Session) -> list[PartitionRead]:
    """Returns all rows, including rows of topics that no process declares any more."""
    return [
        row._replace(
            reader=None if row.reader is None else UUID(str(row.reader)),
            problem=None if row.problem is None else ProblemKind(row.problem),
        )
        for row in map(PartitionRead._make, session.run(READ_READS))
    ]
