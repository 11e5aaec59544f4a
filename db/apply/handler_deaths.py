"""`handler_deaths` and `handler_notes`: the events in whose handlers a worker's process ended.

Such an end is a death. A supervisor stores the death of its worker. A worker without a supervisor writes a
note about each event before the event's handler runs, and removes it later. If a note remains, the next
worker of the queue counts it as a death.
"""

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array, text_array
from sluice.runtime.place import EventPlace

LEFT_BEHIND = "an end without a report"


class HandlerDeaths(NamedTuple):
    """The number of processes that ended inside the handlers of one event. `how` describes the newest end."""

    deaths: int
    timed_out: bool
    """True if a supervisor killed at least one process because the handlers exceeded their time limit."""
    how: str


NOTE_DEATH = Statement(
    "note_handler_death",
    """
    INSERT INTO sluice.handler_deaths AS d
        (queue, topic, topic_id, partition, "offset", deaths, timed_out, how)
    VALUES ($1, $2, $3, $4, $5, 1, $6, $7)
    ON CONFLICT (queue, topic_id, partition, "offset") DO UPDATE SET
        deaths = d.deaths + 1, timed_out = d.timed_out OR excluded.timed_out, how = excluded.how,
        last_at = now()
    RETURNING deaths
    """,
    ("text", "text", "text", "int", "bigint", "boolean", "text"),
)


def note_death(session: Session, queue: str, place: EventPlace, *, timed_out: bool, how: str) -> int:
    """Counts one death. Returns the new number of deaths of the event."""
    return int(session.run(NOTE_DEATH, queue, *place, timed_out, how)[0][0])


READ_DEATHS = Statement(
    "read_handler_deaths",
    """
    SELECT topic, topic_id, partition, "offset", deaths, timed_out, how FROM sluice.handler_deaths
    WHERE queue = $1
    """,
    ("text",),
)


def read_deaths(session: Session, queue: str) -> dict[EventPlace, HandlerDeaths]:
    """Returns the deaths that were counted in a queue."""
    return {EventPlace(*row[:4]): HandlerDeaths(*row[4:]) for row in session.run(READ_DEATHS, queue)}


FORGET_DEATHS = Statement(
    "forget_handler_deaths",
    """
    DELETE FROM sluice.handler_deaths d USING unnest($2, $3, $4) AS s (topic_id, partition, "offset")
    WHERE d.queue = $1 AND d.topic_id = s.topic_id AND d.partition = s.partition AND d."offset" = s."offset"
      -- The handlers of a waiting event run again at its next retry.
      AND coalesce((SELECT l.state FROM sluice.dead_letters l
                    WHERE l.topic_id = s.topic_id AND l.partition = s.partition AND l."offset" = s."offset"
                   ), '') <> 'waiting'
    """,
    ("text", "text[]", "int[]", "bigint[]"),
)


def forget_deaths(session: Session, queue: str, places: Iterable[EventPlace]) -> None:
    """Deletes the counts of these events, unless they wait for a retry. Requires the queue's lock."""
    places = list(places)
    session.run(
        FORGET_DEATHS,
        queue,
        text_array(place.topic_id for place in places),
        bare_array(place.partition for place in places),
        bare_array(place.offset for place in places),
    )


NOTE_HANDLER = Statement(
    "note_handler",
    """
    INSERT INTO sluice.handler_notes AS n (queue, worker, topic, topic_id, partition, "offset", is_batch)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (queue, worker) DO UPDATE SET
        topic = excluded.topic, topic_id = excluded.topic_id, partition = excluded.partition,
        "offset" = excluded."offset", is_batch = excluded.is_batch, noted_at = now()
    """,
    ("text", "uuid", "text", "text", "int", "bigint", "boolean"),
)


def note_handler(
    session: Session, queue: str, worker: UUID, place: EventPlace, *, is_batch: bool = False
) -> None:
    """Notes the event whose handlers this worker begins to run. Replaces its earlier note for the queue.

    With `is_batch`, the note also covers the later events of the batch.
    """
    session.run(NOTE_HANDLER, queue, worker, *place, is_batch)


REMOVE_NOTE = Statement(
    "remove_handler_note",
    "DELETE FROM sluice.handler_notes WHERE queue = $1 AND worker = $2",
    ("text", "uuid"),
)


def remove_note(session: Session, queue: str, worker: UUID) -> None:
    """Removes the note of a worker that runs no handler. Idempotent."""
    session.run(REMOVE_NOTE, queue, worker)


COUNT_NOTES = Statement(
    "count_handler_notes",
    """
    WITH found AS (
        DELETE FROM sluice.handler_notes WHERE queue = $1 AND worker <> $2
        RETURNING topic, topic_id, partition, "offset", is_batch
    ), counted AS (
        INSERT INTO sluice.handler_deaths AS d
            (queue, topic, topic_id, partition, "offset", deaths, timed_out, how)
        SELECT $1, topic, topic_id, partition, "offset", count(*), false, $3 FROM found WHERE NOT is_batch
        GROUP BY topic, topic_id, partition, "offset"
        ON CONFLICT (queue, topic_id, partition, "offset") DO UPDATE SET
            deaths = d.deaths + excluded.deaths, how = excluded.how, last_at = now()
    )
    SELECT count(*) FROM found
    """,
    ("text", "uuid", "text"),
)


def count_notes(session: Session, queue: str, worker: UUID) -> int:
    """Removes the notes that other workers left in a queue. Counts each note of a single event as a death.

    Returns the number of all these notes, including notes of batches.
    """
    ((found,),) = session.run(COUNT_NOTES, queue, worker, LEFT_BEHIND)
    return int(found)
