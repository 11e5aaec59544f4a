"""`dead_letters`: records that could not be applied, whole, with the reason."""

from collections.abc import Sequence

from db.arrays import bare_array, text_array
from db.records import DeadLetterRow
from db.session import Session, Statement

# The same record again (another epoch) is listed once. Ids rise in the order of the records.
INSERT_DEAD_LETTERS = Statement(
    "insert_dead_letters",
    """
    INSERT INTO sluice.dead_letters
        (queue, entity, topic, topic_id, partition, "offset", timestamp_ms, key, value, headers, entity_key,
         identity, event_id, type, source, outcome, error_class, error_text, state)
    SELECT $1, $2, d.topic, d.topic_id, d.partition, d."offset", d.timestamp_ms,
           decode(d.key, 'hex'), decode(d.value, 'hex'), d.headers::jsonb, d.entity_key, d.identity,
           d.event_id, d.type, d.source, d.outcome, d.error_class, d.error_text,
           CASE d.outcome WHEN 'waiting' THEN 'waiting' ELSE 'dead' END
    FROM unnest($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) WITH ORDINALITY
         AS d (topic, topic_id, partition, "offset", timestamp_ms, key, value, headers, entity_key, identity,
               event_id, type, source, outcome, error_class, error_text, n)
    ON CONFLICT (topic_id, partition, "offset") DO NOTHING
    """,
    (
        "text",
        "text",
        *("text[]", "text[]", "int[]", "bigint[]", "bigint[]", "text[]", "text[]", "text[]", "text[]"),
        *("uuid[]", "text[]", "text[]", "text[]", "text[]", "text[]", "text[]"),
    ),
)

_BARE = frozenset({"partition", "offset", "timestamp_ms", "identity"})


def insert_dead_letters(session: Session, queue: str, entity: str, rows: Sequence[DeadLetterRow]) -> None:
    """Lists records as dead or conflicting, in this order. Under the queue's lock; may run twice."""
    if not rows:
        return
    columns = zip(DeadLetterRow._fields, zip(*rows, strict=True), strict=True)
    arrays = [(bare_array if name in _BARE else text_array)(values) for name, values in columns]
    session.run(INSERT_DEAD_LETTERS, queue, entity, *arrays)
