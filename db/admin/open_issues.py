"""Counts the open issues for operators in one statement. It reads only open rows, and not more than a limit.

The time of the statement must not grow with the number of settled rows, because a metrics endpoint runs it
every few seconds.
"""

from typing import NamedTuple

from sluice.db.admin.letters import PARKED
from sluice.db.connection import Session, Statement
from sluice.db.delivery.undeclared import HALTED_SECONDS
from sluice.db.records import Declaration
from sluice.db.sending.calls import EFFECTS_PAUSED

# To count this many rows in an index takes about ten milliseconds. Larger exact numbers are not useful.
COUNT_TO = 100_000


class OpenIssues(NamedTuple):
    """The first ten fields are issues that need an operator. Each number is counted up to COUNT_TO."""

    halted_queues: int
    stopped_generations: int
    projection_letters: int
    """Events that the live generation of a projection could not apply."""
    dead_letters: int
    conflicts: int
    refused_records: int
    uncertain_calls: int
    failed_calls: int
    halted_topics: int
    halted_effects: int
    retrying_events: int
    waiting_letters: int
    parked_entities: int
    outgoing_records: int
    pending_calls: int
    running_calls: int
    oldest_outgoing_seconds: float
    oldest_due_call_seconds: float
    effects_paused: bool

    @property
    def need_an_operator(self) -> bool:
        """Returns True if at least one issue needs an operator."""
        return any(self[:10]) or self.effects_paused


def _count(rows: str) -> str:
    return f"(SELECT count(*) FROM (SELECT FROM {rows} LIMIT $1) counted)"


def _calls(state: str) -> str:
    return _count(f"sluice.executed_side_effects WHERE state = '{state}'")


def _halted(kind: Declaration) -> str:
    return _count(f"sluice.undeclared WHERE kind = '{kind}' AND waited_seconds >= {HALTED_SECONDS}")


# Reads a queue's rows above `sent_through`, as the relay does: all rows up to `sent_through` are sent.
_WAITING = """
    (SELECT queue FROM sluice.queues UNION SELECT queue FROM sluice.relay_progress) q
    LEFT JOIN sluice.relay_progress r USING (queue)
    CROSS JOIN LATERAL (
        SELECT created_at FROM sluice.outbox_events w
        WHERE w.queue = q.queue AND w.id > coalesce(r.sent_through, 0) ORDER BY w.id LIMIT {limit}
    ) o
"""

_BEHIND = """sluice.dead_letters d WHERE d.state = 'waiting'
    AND NOT EXISTS (SELECT FROM sluice.retries r WHERE r.letter_id = d.id)"""

# Counts only letters of live generations. No reader sees the rows of other generations.
_PROJECTION_LETTERS = """sluice.projections p
    JOIN sluice.projection_letters l ON l.projection = p.projection AND l.generation = p.live_generation
    WHERE l.state = 'dead'"""

READ_OPEN_ISSUES = Statement(
    "read_open_issues",
    f"""
    SELECT {_count("sluice.queues WHERE halted_reason IS NOT NULL")},
           {_count("sluice.generations WHERE state = 'stopped'")},
           {_count(_PROJECTION_LETTERS)},
           {_count("sluice.dead_letters WHERE state = 'dead' AND outcome = 'dead'")},
           {_count("sluice.dead_letters WHERE state = 'dead' AND outcome = 'conflict'")},
           {_count("sluice.outbox_refusals")},
           {_calls("uncertain")},
           {_calls("failed")},
           {_halted(Declaration.TOPIC)},
           {_halted(Declaration.EFFECT)},
           {_count("sluice.retries")},
           {_count(_BEHIND)},
           {_count(PARKED)},
           {_count(_WAITING.format(limit="$1"))},
           {_calls("pending")},
           {_calls("running")},
           -- The oldest row of each queue is the first in the index, however many rows wait behind it.
           (SELECT coalesce(max(extract(epoch FROM now() - o.created_at)), 0)::float8
            FROM {_WAITING.format(limit="1")}),
           (SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8
            FROM sluice.executed_side_effects WHERE state = 'pending' AND due_at < now()),
           EXISTS (SELECT FROM sluice.switches WHERE name = '{EFFECTS_PAUSED}')
    """,
    ("bigint",),
)


def read_open_issues(session: Session, *, count_to: int = COUNT_TO) -> OpenIssues:
    """Returns the current open issues."""
    return OpenIssues(*session.run(READ_OPEN_ISSUES, count_to)[0])
