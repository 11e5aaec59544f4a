"""`retries`: events that were set aside and are retried without an operator.

A row belongs to the first waiting letter of its entity. The entity's later letters wait behind this letter.
The statements find letters with scalar subqueries, because with joins the planner would hash all letters.
"""

from typing import NamedTuple

from sluice.db.apply.handler_deaths import HandlerDeaths
from sluice.db.connection import Session, Statement
from sluice.db.records import RetryKind


class Retry(NamedTuple):
    """One due event. `attempts`: the consecutive failed attempts.

    `failures`: the time-outs among these attempts that count.
    """

    letter_id: int
    entity: str
    key: str | None
    kind: str
    failures: int
    attempts: int
    knows_blockers: bool
    deaths: HandlerDeaths | None
    """The number of processes that ended in its handlers, and the newest end; None if no process ended."""


class NextRetry(NamedTuple):
    """The state after a failed attempt. `blockers` is a JSON array; None keeps the stored array."""

    kind: RetryKind
    failures: int
    attempts: int
    pause_seconds: float
    error_class: str
    error_text: str
    blockers: str | None = None


INSERT_RETRY = Statement(
    "insert_retry",
    """
    INSERT INTO sluice.retries (letter_id, queue, entity, key, kind, attempts, retry_at)
    SELECT id, queue, entity, entity_key, $4, 1, clock_timestamp() + make_interval(secs => $5)
    FROM sluice.dead_letters
    WHERE topic_id = $1 AND partition = $2 AND "offset" = $3 AND state = 'waiting'
    ON CONFLICT (letter_id) DO NOTHING
    """,
    ("text", "int", "bigint", "text", "float8"),
)


def insert_retry(
    session: Session,
    topic_id: str,
    partition: int,
    offset: int,
    *,
    kind: RetryKind,
    pause_seconds: float,
) -> None:
    """Adds a retry for the waiting letter of a record. Idempotent. Requires the queue's lock."""
    session.run(INSERT_RETRY, topic_id, partition, offset, kind, pause_seconds)


READ_DUE_RETRY = Statement(
    "read_due_retry",
    """
    SELECT r.letter_id, r.entity, r.key, r.kind, r.failures, r.attempts, r.blockers IS NOT NULL,
           (SELECT jsonb_build_array(h.deaths, h.timed_out, h.how) FROM sluice.handler_deaths h
            WHERE h.queue = $1 AND (h.topic_id, h.partition, h."offset") = (
                SELECT d.topic_id, d.partition, d."offset" FROM sluice.dead_letters d
                WHERE d.id = r.letter_id))
    FROM sluice.retries r
    WHERE r.queue = $1 AND r.retry_at <= clock_timestamp() ORDER BY r.retry_at LIMIT 1
    """,
    ("text",),
)


def read_due_retry(session: Session, queue: str) -> Retry | None:
    """Returns the event of a queue that has been due for the longest time; None if no event is due."""
    rows = session.run(READ_DUE_RETRY, queue)
    if not rows:
        return None
    *row, deaths = rows[0]
    return Retry._make([*row, HandlerDeaths(*deaths) if deaths else None])


READ_DUE_QUEUES = Statement(
    "read_due_queues", "SELECT DISTINCT queue FROM sluice.retries WHERE retry_at <= clock_timestamp()"
)


def read_due_queues(session: Session) -> list[str]:
    """Returns the queues with an event that is due."""
    return sorted(queue for (queue,) in session.run(READ_DUE_QUEUES))


BEGIN_RETRY = Statement(
    "begin_retry",
    """
    UPDATE sluice.retries SET retry_at = clock_timestamp() + make_interval(secs => $2) WHERE letter_id = $1
    """,
    ("bigint", "float8"),
)


def begin_retry(session: Session, letter_id: int, pause_seconds: float) -> None:
    """Postpones an event before its attempt begins, because the attempt may end the process."""
    session.run(BEGIN_RETRY, letter_id, pause_seconds)


POSTPONE_RETRY = Statement(
    "postpone_retry",
    """
    WITH postponed AS (
        UPDATE sluice.retries
        SET kind = $2, failures = $3, attempts = $4, retry_at = clock_timestamp() + make_interval(secs => $5),
            blockers = coalesce($6::jsonb, blockers),
            blockers_at = CASE WHEN $6 IS NULL THEN blockers_at ELSE clock_timestamp() END
        WHERE letter_id = $1 RETURNING letter_id
    )
    UPDATE sluice.dead_letters SET attempts = attempts + 1, error_class = $7, error_text = $8
    WHERE id = ANY (ARRAY(SELECT letter_id FROM postponed)) AND state = 'waiting'
    """,
    ("bigint", "text", "int", "int", "float8", "text", "text", "text"),
)


def postpone_retry(session: Session, letter_id: int, after: NextRetry) -> None:
    """Stores the result of a failed attempt. Changes nothing if the letter is no longer retried."""
    session.run(
        POSTPONE_RETRY,
        letter_id,
        after.kind,
        after.failures,
        after.attempts,
        after.pause_seconds,
        after.blockers,
        after.error_class,
        after.error_text,
    )


MOVE_RETRY = Statement(
    "move_retry",
    """
    WITH gone AS (
        DELETE FROM sluice.retries r
        WHERE r.entity = $1 AND (r.key = $2 OR $2 IS NULL AND r.key IS NULL)
          AND (SELECT d.state FROM sluice.dead_letters d WHERE d.id = r.letter_id) <> 'waiting'
        RETURNING r.queue, r.kind, r.set_aside_at
    )
    INSERT INTO sluice.retries (letter_id, queue, entity, key, kind, set_aside_at, retry_at)
    SELECT n.id, g.queue, $1, $2, g.kind, g.set_aside_at, clock_timestamp()
    FROM gone g, LATERAL (
        SELECT d.id FROM sluice.dead_letters d
        WHERE d.entity = $1 AND d.entity_key = $2 AND d.state = 'waiting' ORDER BY d.id LIMIT 1
    ) n
    WHERE $3
    ON CONFLICT (letter_id) DO NOTHING
    """,
    ("text", "text", "bool"),
)


def move_retry(session: Session, entity: str, key: str | None, *, goes_on: bool) -> None:
    """Deletes the rows of letters that no longer wait. Idempotent. Requires the queue's lock.

    With `goes_on`, the entity's first waiting letter gets a row that is due at once.
    """
    session.run(MOVE_RETRY, entity, key, goes_on)


READ_IS_RETRIED = Statement(
    "read_is_retried",
    "SELECT EXISTS (SELECT FROM sluice.retries WHERE entity = $1 AND key = $2)",
    ("text", "text"),
)


def is_retried(session: Session, entity: str, key: str) -> bool:
    """Returns True if an event of the entity is retried.

    Without the queue's lock, this may change at any time.
    """
    ((found,),) = session.run(READ_IS_RETRIED, entity, key)
    return bool(found)


DELETE_RETRIES = Statement(
    "delete_retries", "DELETE FROM sluice.retries WHERE entity = $1 AND key = $2", ("text", "text")
)


def delete_retries(session: Session, entity: str, key: str) -> None:
    """Ends the retries of an entity. Idempotent. Requires the queue's lock."""
    session.run(DELETE_RETRIES, entity, key)


READ_BLOCKERS = Statement(
    "read_blockers",
    """
    SELECT jsonb_agg(jsonb_build_object(
        'pid', b.pid, 'application', a.application_name, 'user', a.usename, 'state', a.state,
        'since', a.xact_start, 'query', left(a.query, 300)
    ) ORDER BY b.pid)::text
    FROM unnest(pg_blocking_pids($1)) AS b (pid) LEFT JOIN pg_stat_activity a ON a.pid = b.pid
    """,
    ("int",),
)


def read_blockers(session: Session, pid: int) -> str | None:
    """Returns the sessions that block the backend `pid`, as a JSON array; None if no session blocks it.

    The pid 0 is a prepared transaction. Columns that the role may not see are null.
    """
    ((found,),) = session.run(READ_BLOCKERS, pid)
    return None if found is None else str(found)
