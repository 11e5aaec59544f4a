"""`skipped_records`: offsets that an operator skipped because the Kafka client cannot read the records.

All readers of a topic's log omit these records: the bridge, rebuilds, `verify` and `trace`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange


class SkippedRecords(NamedTuple):
    """One row. `problem` is the reason why the records could not be read."""

    topic: str
    topic_id: str
    partition: int
    first_offset: int
    last_offset: int
    records: int
    problem: str


INSERT_SKIPPED = Statement(
    "insert_skipped_records",
    """
    INSERT INTO sluice.skipped_records
        (topic, topic_id, partition, first_offset, last_offset, records, problem)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    """,
    ("text", "text", "int", "bigint", "bigint", "bigint", "text"),
)

# Reads only rows with the current topic ids. Rows of an earlier topic of the same name concern other records.
READ_SKIPPED = Statement(
    "read_skipped_records",
    """
    SELECT s.topic, s.partition, s.first_offset, s.last_offset
    FROM sluice.skipped_records s JOIN sluice.topics t USING (topic, topic_id)
    ORDER BY s.topic, s.partition, s.first_offset
    """,
)


def insert_skipped_records(session: Session, row: SkippedRecords) -> None:
    """Adds a row, in the transaction of the operator's decision."""
    session.run(INSERT_SKIPPED, *row)


def read_skipped_ranges(session: Session) -> Mapping[Place, list[SkippedRange]]:
    """Returns partition → skipped offsets. Omits partitions without skipped offsets."""
    found: dict[Place, list[SkippedRange]] = {}
    for topic, partition, first, last in session.run(READ_SKIPPED):
        found.setdefault((topic, partition), []).append(SkippedRange(first, last))
    return found
