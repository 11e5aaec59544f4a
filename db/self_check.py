"""What an operator should know of, in one statement."""

from typing import NamedTuple

from db.calls import EFFECTS_PAUSED
from db.session import Session, Statement


class Troubles(NamedTuple):
    """Counts of what waits for somebody, and ages in seconds of what waits by itself."""

    halted_queues: int
    dead_letters: int
    refused_records: int
    uncertain_calls: int
    failed_calls: int
    oldest_outgoing_seconds: float
    oldest_due_call_seconds: float
    effects_paused: bool


READ_TROUBLES = Statement(
    "read_troubles",
    f"""
    SELECT (SELECT count(*) FROM sluice.queues WHERE halted_reason IS NOT NULL),
           (SELECT count(*) FROM sluice.dead_letters WHERE state = 'dead'),
           (SELECT count(*) FROM sluice.outbox_refusals),
           (SELECT count(*) FROM sluice.executed_side_effects WHERE state = 'uncertain'),
           (SELECT count(*) FROM sluice.executed_side_effects WHERE state = 'failed'),
           -- The oldest of each queue by its id: an index walk, however much waits behind it.
           (SELECT coalesce(max(extract(epoch FROM now() - o.created_at)), 0)::float8
            FROM (SELECT queue FROM sluice.queues UNION SELECT queue FROM sluice.relay_progress) q
            LEFT JOIN sluice.relay_progress r USING (queue)
            CROSS JOIN LATERAL (
                SELECT created_at FROM sluice.outbox_events w
                WHERE w.queue = q.queue AND w.id > coalesce(r.sent_through, 0) ORDER BY w.id LIMIT 1
            ) o),
           (SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8
            FROM sluice.executed_side_effects WHERE state = 'pending' AND due_at < now()),
           EXISTS (SELECT FROM sluice.switches WHERE name = '{EFFECTS_PAUSED}')
    """,
)


def read_troubles(session: Session) -> Troubles:
    """As of now."""
    return Troubles(*session.run(READ_TROUBLES)[0])
