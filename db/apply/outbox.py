"""`outbox_events`: events for others, as rows of the transaction that decided them."""

from collections.abc import Sequence

from sluice.db.arrays import bare_array, text_array
from sluice.db.connection import Session, Statement
from sluice.db.records import OutboxRow

# The ids are drawn here, after every lock, in the order of the events: per queue they commit in order.
INSERT_OUTBOX = Statement(
    "insert_outbox",
    """
    INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, version, headers, payload)
    SELECT $1, nextval('sluice.outbox_ids'), d.event_id, d.topic, d.key, d.type, d.version, d.headers::jsonb,
           convert_to(d.payload, 'UTF8')
    FROM unnest($2, $3, $4, $5, $6, $7, $8) WITH ORDINALITY
         AS d (event_id, topic, key, type, version, headers, payload, n)
    """,
    ("text", "uuid[]", "text[]", "text[]", "text[]", "text[]", "text[]", "text[]"),
)


def insert_outbox(session: Session, queue: str, rows: Sequence[OutboxRow]) -> None:
    """Writes outgoing events of one queue, in this order. Under the queue's lock."""
    if rows:
        event_ids, *texts = zip(*rows, strict=True)
        session.run(INSERT_OUTBOX, queue, bare_array(event_ids), *map(text_array, texts))
