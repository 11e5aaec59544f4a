"""Retried events, for operators: the reason, the time, and the sessions that hold locks that they need."""

from typing import Any, NamedTuple

from sluice.db.connection import Session, Statement

MOST_READ = 100  # the oldest retries; `sluice dlq ls` lists the others


class RetryingEvent(NamedTuple):
    """One retried event.

    `blockers`: the sessions that blocked the last attempt. `is_there` and `seconds` in them are current.
    """

    letter_id: int
    entity: str
    key: str | None
    kind: str
    attempts: int
    seconds: float
    error: str
    blockers: list[dict[str, Any]]


# A blocker is still there if its transaction still runs. If the role may not see the transaction, only the
# process id is compared.
READ_RETRYING = Statement(
    "read_retrying",
    f"""
    SELECT r.letter_id, r.entity, r.key, r.kind, r.attempts,
           extract(epoch FROM now() - r.set_aside_at)::float8, d.error_class || ': ' || d.error_text,
           coalesce((
               SELECT jsonb_agg(b.seen || jsonb_build_object(
                   'is_there', a.pid IS NOT NULL OR b.seen->>'pid' = '0',
                   'seconds', extract(epoch FROM now()
                       - coalesce(a.xact_start, (b.seen->>'since')::timestamptz)),
                   'state', coalesce(a.state, b.seen->>'state')
               ))
               FROM jsonb_array_elements(r.blockers) AS b (seen)
               LEFT JOIN pg_stat_activity a ON a.pid = (b.seen->>'pid')::int AND (
                   a.state IS NULL OR b.seen->>'since' IS NULL
                   OR a.xact_start = (b.seen->>'since')::timestamptz)
           ), '[]')
    FROM sluice.retries r JOIN sluice.dead_letters d ON d.id = r.letter_id
    WHERE d.state = 'waiting' ORDER BY r.set_aside_at, r.letter_id LIMIT {MOST_READ}
    """,
)


def read_retrying(session: Session) -> list[RetryingEvent]:
    """Returns retried events. The event that was set aside first is first."""
    return [RetryingEvent(*row) for row in session.run(READ_RETRYING)]


COUNT_RETRYING = Statement("count_retrying", "SELECT count(*) FROM sluice.retries")


def count_retrying(session: Session) -> int:
    """Returns the number of retried events."""
    ((count,),) = session.run(COUNT_RETRYING)
    return int(count)
