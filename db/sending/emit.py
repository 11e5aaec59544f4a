"""Outgoing events of a user's own transaction: over their SQLAlchemy connection, in their transaction."""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from sluice.db.apply.outgoing import DEFAULT_SOURCE
from sluice.db.records import OutboxRow

# In the order of their names, whoever comes: else two transactions could wait for each other.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('sluice emit'), hashtext(:queue))")
# By this the relay knows of the queue.
_KNOW = text(
    """
    INSERT INTO sluice.relay_progress (queue, sent_through) VALUES (:queue, 0) ON CONFLICT (queue) DO NOTHING
    """
)
_INSERT = text(
    f"""
    INSERT INTO sluice.outbox_events
        (queue, id, event_id, topic, key, type, version, headers, payload, source)
    VALUES (:queue, nextval('sluice.outbox_ids'), :event_id, :topic, :key, :type, :version,
            CAST(:headers AS jsonb), convert_to(:payload, 'UTF8'),
            coalesce(CAST(:source AS text), {DEFAULT_SOURCE}))
    """
)


def insert_emitted(connection: Connection, rows: Sequence[tuple[str, OutboxRow]], source: str | None) -> None:
    """Writes outgoing events, each with its queue, in this order. The caller commits.

    `source` is their CloudEvents source; None: `<name>-<short id>` of the installation.

    The queues' locks are held until then: an id drawn earlier and committed later than another one of its
    queue would be behind what the relay has passed, and be lost.
    """
    for queue in sorted({queue for queue, _ in rows}):
        connection.execute(_LOCK, {"queue": queue})
        connection.execute(_KNOW, {"queue": queue})
    for queue, row in rows:
        connection.execute(_INSERT, {"queue": queue, "source": source, **row._asdict()})
