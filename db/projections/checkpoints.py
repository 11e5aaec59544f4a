"""`checkpoints`: copies of a generation at one moment. Another generation may begin with such a copy."""

from datetime import datetime
from typing import Any, NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.tables import MAX_PROJECTION_BYTES

MAX_TABLE_BYTES = 63
MAX_NAME_BYTES = MAX_TABLE_BYTES - MAX_PROJECTION_BYTES - len("_at_")


def checkpoint_table(projection: str, checkpoint: str) -> str:
    """Returns the name of the table that holds the rows of a checkpoint."""
    return f"{projection}_at_{checkpoint}"


class CheckpointLane(NamedTuple):
    """A lane's offset at the checkpoint. Every record of the lane at or below this offset has an outcome."""

    topic: str
    partition: int
    queue: str
    epoch: int
    applied_offset: int


class Checkpoint(NamedTuple):
    """One checkpoint."""

    checkpoint: str
    projection: str
    generation: int
    revision: int
    made_at: datetime
    lanes: list[CheckpointLane]
    open_letters: list[tuple[str, int, int]]
    """(topic id, partition, offset) of the events that the copy lacks, because they were dead or waiting."""

    @property
    def table(self) -> str:
        """Returns the name of the table that holds its rows."""
        return checkpoint_table(self.projection, self.checkpoint)


INSERT_CHECKPOINT = Statement(
    "insert_checkpoint",
    """
    INSERT INTO sluice.checkpoints (checkpoint, projection, generation, revision, lanes, open_letters)
    SELECT $1, $2, $3, $4,
        (SELECT coalesce(jsonb_agg(jsonb_build_array(
                p.topic, p.partition, e.entity || '.' || n, e.epoch,
                greatest(p.watermark - 1, coalesce(l.applied_offset, -1))
            ) ORDER BY p.topic, p.partition, n), '[]')
         FROM sluice.partition_watermarks p
         JOIN sluice.topics t ON t.topic = p.topic
         JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = p.epoch
         CROSS JOIN LATERAL generate_series(0, e.shards - 1) AS n
         LEFT JOIN sluice.lane_offsets l ON l.topic = p.topic AND l.partition = p.partition
            AND l.queue = e.entity || '.' || n AND l.epoch = e.epoch),
        (SELECT coalesce(
            jsonb_agg(jsonb_build_array(d.topic_id, d.partition, d."offset") ORDER BY d.id), '[]')
         FROM sluice.dead_letters d
         WHERE d.state IN ('dead', 'waiting') AND d.outcome IN ('dead', 'waiting'))
    """,
    ("text", "text", "int", "int"),
)


def insert_checkpoint(
    session: Session, checkpoint: str, projection: str, generation: int, revision: int
) -> None:
    """Writes a checkpoint with the live offsets. Call it in the snapshot in which the rows are copied.

    Raises UniqueViolation if a checkpoint has this name.
    """
    session.run(INSERT_CHECKPOINT, checkpoint, projection, generation, revision)


READ_CHECKPOINTS = Statement(
    "read_checkpoints",
    f"""
    SELECT {", ".join(Checkpoint._fields)} FROM sluice.checkpoints
    WHERE $1 IS NULL OR projection = $1 ORDER BY made_at
    """,
    ("text",),
)


def read_checkpoints(session: Session, projection: str | None) -> list[Checkpoint]:
    """Returns the checkpoints of one projection or of all projections, oldest first."""
    found: list[tuple[Any, ...]] = session.run(READ_CHECKPOINTS, projection)
    return [
        Checkpoint._make(
            [*row[:5], [CheckpointLane(*lane) for lane in row[5]], [(t, p, o) for t, p, o in row[6]]]
        )
        for row in found
    ]


DELETE_CHECKPOINT = Statement(
    "delete_checkpoint",
    "DELETE FROM sluice.checkpoints WHERE checkpoint = $1 AND projection = $2",
    ("text", "text"),
)


def delete_checkpoint(session: Session, checkpoint: str, projection: str) -> bool:
    """Deletes a checkpoint's row. Returns True if it existed. The caller drops its table."""
    return session.count(DELETE_CHECKPOINT, checkpoint, projection) == 1


PLACE_LANES = Statement(
    "place_lanes",
    """
    INSERT INTO sluice.generation_offsets
        (projection, generation, topic, partition, queue, applied_offset, filled_xid)
    SELECT $1, $2, lane->>0, (lane->>1)::int, lane->>2, (lane->>4)::bigint,
           pg_current_xact_id()::text::bigint
    FROM sluice.checkpoints c CROSS JOIN LATERAL jsonb_array_elements(c.lanes) AS lane
    WHERE c.checkpoint = $3
    """,
    ("text", "int", "text"),
)


def place_lanes(session: Session, projection: str, generation: int, checkpoint: str) -> None:
    """Gives the checkpoint's offsets to a generation that was filled from the checkpoint."""
    session.run(PLACE_LANES, projection, generation, checkpoint)


class LetterSince(NamedTuple):
    """An event that was dead or waiting at a checkpoint. `state` is its current state; None after a purge."""

    state: str | None
    letter_id: int | None
    topic_id: str
    partition: int
    offset: int


READ_LETTERS_SINCE = Statement(
    "read_letters_since",
    """
    SELECT d.state, d.id, o->>0, (o->>1)::int, (o->>2)::bigint
    FROM sluice.checkpoints c CROSS JOIN LATERAL jsonb_array_elements(c.open_letters) AS o
    LEFT JOIN sluice.dead_letters d
        ON d.topic_id = o->>0 AND d.partition = (o->>1)::int AND d."offset" = (o->>2)::bigint
    WHERE c.checkpoint = $1
    ORDER BY d.id
    """,
    ("text",),
)


def read_letters_since(session: Session, checkpoint: str) -> list[LetterSince]:
    """Returns the current state of each event that the checkpoint lacks."""
    return [LetterSince(*row) for row in session.run(READ_LETTERS_SINCE, checkpoint)]
