"""Deletes old rows, a limited number at a time."""

from sluice.db.connection import QUEUE_PLANS, Session, Statement

PURGE_PLANS = QUEUE_PLANS

PURGE_IDENTITIES = Statement(
    "purge_identities",
    """
    DELETE FROM sluice.processed_events
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sluice.processed_events
        WHERE ctid >= format('(%s,0)', $3)::tid AND ctid < format('(%s,0)', $4)::tid
          AND topic = $1 AND processed_at < now() - make_interval(secs => $2)
          -- Events with these outcomes may still be applied.
          AND outcome NOT IN ('dead', 'waiting')
          -- A stopped generation needs newer identities to catch up. The hour is for transactions that
          -- began before the stop.
          AND processed_at < coalesce(
              (SELECT min(stopped_at) FROM sluice.generations) - interval '1 hour', 'infinity'
          )
    ))
    """,
    ("text", "float8", "bigint", "bigint"),
)


def purge_identities(session: Session, topic: str, older_than_seconds: float, pages: range) -> int:
    """Deletes identities of events that are too old to be repeated, in some pages of the table.

    Returns their number. Idempotent. A pass over the table reads each page one time. A search by age would
    read again the rows that were deleted before, and all newer rows in pages that are used again.
    """
    return session.count(PURGE_IDENTITIES, topic, older_than_seconds, pages.start, pages.stop)


COUNT_PAGES = Statement(
    "count_identity_pages",
    "SELECT pg_relation_size('sluice.processed_events') / current_setting('block_size')::int",
)


def count_identity_pages(session: Session) -> int:
    """Returns the number of pages of the table of identities."""
    ((pages,),) = session.run(COUNT_PAGES)
    return int(pages)


# If a handler set `once` explicitly, the key of the call is kept forever. Its arguments are not.
EMPTY_CALLS = Statement(
    "empty_calls",
    """
    UPDATE sluice.executed_side_effects SET args = NULL, response = NULL
    WHERE effect_key IN (
        SELECT effect_key FROM sluice.executed_side_effects
        WHERE state = 'succeeded' AND args IS NOT NULL AND explicit_once
          AND settled_at < now() - make_interval(secs => $1)
        ORDER BY settled_at LIMIT $2
    )
    """,
    ("float8", "int"),
)
PURGE_CALLS = Statement(
    "purge_calls",
    """
    DELETE FROM sluice.executed_side_effects
    WHERE effect_key IN (
        SELECT effect_key FROM sluice.executed_side_effects
        WHERE state = 'succeeded' AND args IS NOT NULL AND NOT explicit_once
          AND settled_at < now() - make_interval(secs => $1)
        ORDER BY settled_at LIMIT $2
    )
    """,
    ("float8", "int"),
)


def empty_calls(session: Session, older_than_seconds: float, limit: int) -> int:
    """Clears args and answers of succeeded calls with an explicit `once`. Returns their number.

    Idempotent.
    """
    return session.count(EMPTY_CALLS, older_than_seconds, limit)


def purge_calls(session: Session, older_than_seconds: float, limit: int) -> int:
    """Deletes succeeded calls without an explicit `once`. Returns their number. Idempotent."""
    return session.count(PURGE_CALLS, older_than_seconds, limit)


PURGE_DEAD_LETTERS = Statement(
    "purge_dead_letters",
    """
    DELETE FROM sluice.dead_letters
    WHERE id IN (
        SELECT id FROM sluice.dead_letters d
        WHERE d.state IN ('done', 'dropped') AND d.settled_at < now() - make_interval(secs => $1)
          -- Only the letter shows that an event without an identity was dropped.
          AND (d.state = 'done' OR NOT EXISTS (
              SELECT FROM sluice.dedup_starts s
              WHERE s.topic_id = d.topic_id AND s.partition = d.partition AND s.dedup <> 'id'
          ))
        ORDER BY d.id LIMIT $2
    )
    """,
    ("float8", "int"),
)


def purge_dead_letters(session: Session, older_than_seconds: float, limit: int) -> int:
    """Deletes dead letters that are done or dropped. Returns their number. Idempotent.

    Keeps the dropped letters of topics without identities, because a rebuild must pass over their events.
    """
    return session.count(PURGE_DEAD_LETTERS, older_than_seconds, limit)


# Dropped letters are kept as long as their generation, because a rebuild must pass over their events.
PURGE_PROJECTION_LETTERS = Statement(
    "purge_projection_letters",
    """
    DELETE FROM sluice.projection_letters
    WHERE id IN (
        SELECT id FROM sluice.projection_letters
        WHERE state = 'done' AND settled_at < now() - make_interval(secs => $1)
        ORDER BY id LIMIT $2
    )
    """,
    ("float8", "int"),
)


def purge_projection_letters(session: Session, older_than_seconds: float, limit: int) -> int:
    """Deletes applied letters of generations. Returns their number. Idempotent."""
    return session.count(PURGE_PROJECTION_LETTERS, older_than_seconds, limit)


READ_OLDEST_PARKED = Statement(
    "read_oldest_parked",
    "SELECT coalesce(extract(epoch FROM now() - min(parked_at)), 0)::float8 FROM sluice.parked_entities",
)


def read_oldest_parked_seconds(session: Session) -> float:
    """Returns for how many seconds the oldest parked entity has been parked; 0 if no entity is parked."""
    ((seconds,),) = session.run(READ_OLDEST_PARKED)
    return float(seconds)
