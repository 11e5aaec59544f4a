"""Emits events in your own transaction, so that a web application's rows and events commit together.

    with engine.begin() as connection:
        connection.execute(orders.insert(), {"order_id": "order-99", "total_cents": 25_000})
        emit(connection, [Emit("order-events", key="order-99", type="order.created", data={"total": 25_000})])

Nothing is sent if the transaction rolls back. The relay sends what was committed, within about a second.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from uuid import UUID, uuid4

from sqlalchemy import Connection

from sluice.db.sending.emit import insert_emitted
from sluice.runtime.settings import read_schema, read_source
from sluice.tasks.api import EffectRefused, Emit, Rejected
from sluice.tasks.fold.emitting import checked_emit, outbox_row

QUEUES_PER_STREAM = 16  # so that concurrent transactions seldom wait for the same lock
_STREAM = re.compile(r"[a-z][a-z0-9_-]{0,63}")


def emit(connection: Connection, events: Sequence[Emit], *, stream: str = "app") -> list[UUID]:
    """Writes events to the outbox in the connection's open transaction; returns their ids, in order.

    Events of one key and `stream` are sent in the order in which their transactions commit; within a
    transaction, in the given order. Call `emit` one time per transaction, late, with all events: `emit` locks
    the queue of each key, in a fixed order, until you commit. With two calls per transaction, two
    transactions may deadlock; Postgres then aborts one of them.

    The CloudEvents source of the events is SLUICE_SOURCE of this process, or else that of the installation.
    SLUICE_SCHEMA of this process names the schema of the installation.

    Raises Rejected for an event that could never be sent, ValueError for an invalid name of a stream,
    SettingsError for a source that is too long or an invalid schema. Not idempotent: a second call
    emits the events again.
    """
    if not _STREAM.fullmatch(stream):
        raise ValueError(
            f"stream {stream!r}: a name begins with a lower-case letter, then has letters, digits, - and _,"
            " and at most 64 characters"
        )
    now = datetime.now(UTC)
    rows = []
    for event in events:
        row = outbox_row(_sendable(event), uuid4(), now, {})
        rows.append((queue_of(stream, row.key), row))
    insert_emitted(connection, rows, read_source(), read_schema())
    return [row.event_id for _, row in rows]


def queue_of(stream: str, key: str | None) -> str:
    """Returns the queue of a key. An event without a key has the queue of the empty key."""
    digest = blake2b((key or "").encode(), digest_size=8).digest()
    return f"emit.{stream}.{int.from_bytes(digest, 'big') % QUEUES_PER_STREAM}"


def _sendable(event: Emit) -> Emit:
    if not isinstance(event, Emit):
        raise Rejected(f"{type(event).__name__} {event!r:.80} is not an Emit")
    try:
        return checked_emit(event)
    except EffectRefused as refused:
        raise Rejected(str(refused)) from None
