"""Writes outgoing events in a user's own transaction, over the user's SQLAlchemy connection."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, TextClause, text

from sluice.db.advisory_locks import LockPurpose, lock_text
from sluice.db.apply.outgoing import DEFAULT_SOURCE
from sluice.db.records import OutboxRow
from sluice.db.schema_text import in_schema

# All processes lock queues in the order of their names, so that two transactions cannot deadlock.
_LOCK = f"SELECT pg_advisory_xact_lock(hashtext({lock_text(LockPurpose.EMIT)}), hashtext(:queue))"
# The relay finds the queue because of this row.
_KNOW = """
    INSERT INTO sluice.relay_progress (queue, sent_through) VALUES (:queue, 0) ON CONFLICT (queue) DO NOTHING
"""
# Texts are sent as UTF-8 bytes: the connection may have a client encoding that lacks their letters.
_INSERT = f"""
    INSERT INTO sluice.outbox_events
        (queue, id, event_id, topic, key, type, version, headers, payload, source)
    VALUES (:queue, nextval('sluice.outbox_ids'), :event_id, :topic, convert_from(:key, 'UTF8'),
            convert_from(:type, 'UTF8'), convert_from(:version, 'UTF8'),
            CAST(convert_from(:headers, 'UTF8') AS jsonb), :payload,
            coalesce(convert_from(:source, 'UTF8'), {DEFAULT_SOURCE}))
"""
_AS_BYTES = ("key", "type", "version", "headers", "payload", "source")


def insert_emitted(
    connection: Connection, rows: Sequence[tuple[str, OutboxRow]], source: str | None, schema: str
) -> None:
    """Writes outgoing events, each with its queue, in this order. The caller must commit.

    `schema` is that of the installation. `source` is the CloudEvents source. None means `<name>-<short id>`
    of the installation. The locks of the queues are held until the commit. Without these locks, an id could
    be committed after a higher id of the same queue. If the relay has already sent the higher id, it would
    never read the lower id, and the event would be lost.
    """
    lock, know, insert = (_statement(sql, schema) for sql in (_LOCK, _KNOW, _INSERT))
    for queue in sorted({queue for queue, _ in rows}):
        connection.execute(lock, {"queue": queue})
        connection.execute(know, {"queue": queue})
    for queue, row in rows:
        values: dict[str, Any] = {"queue": queue, "source": source, **row._asdict()}
        encoded = {name: values[name].encode() for name in _AS_BYTES if values[name] is not None}
        connection.execute(insert, values | encoded)


@cache
def _statement(sql: str, schema: str) -> TextClause:
    return text(in_schema(sql, schema))
