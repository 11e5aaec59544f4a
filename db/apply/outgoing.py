"""Stores outgoing events and calls in the transaction of their batch."""

from collections.abc import Sequence
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.errors import RowsChanged
from sluice.db.records import LedgerRow, OutboxRow
from sluice.db.values import array_and_default, bare_array, in_pieces, text_array, uuid_array

# The text `<name>-<short id>`, which equals `Installation.group`. NULL in a database without an installation.
DEFAULT_SOURCE = "(SELECT name || '-' || left(id::text, 8) FROM sluice.installation WHERE is_only)"

# Ids are drawn in this statement, after all locks and in the order of the events. Therefore the ids of a
# queue are committed in order.
INSERT_OUTBOX = Statement(
    "insert_outbox",
    f"""
    INSERT INTO sluice.outbox_events
        (queue, id, event_id, topic, key, type, version, headers, payload, source)
    SELECT $1, nextval('sluice.outbox_ids'), d.event_id, coalesce(d.topic, $8), d.key, coalesce(d.type, $10),
           coalesce(d.version, $12), d.headers::jsonb, convert_to(d.payload, 'UTF8'),
           coalesce($2, {DEFAULT_SOURCE})
    FROM unnest($3, $4, $5, $6, $7, $9, $11) AS d (event_id, key, headers, payload, topic, type, version)
    """,
    (
        *("text", "text", "uuid[]", "text[]", "text[]", "text[]"),
        *("text[]", "text", "text[]", "text", "text[]", "text"),
    ),
)


def insert_outbox(session: Session, queue: str, rows: Sequence[OutboxRow], source: str | None) -> None:
    """Writes outgoing events of one queue, in this order, before the next statement. Requires its lock.

    `source` is the CloudEvents source. None means `<name>-<short id>` of the installation.
    """
    for piece in in_pieces(rows):
        event_ids, topics, keys, types, versions, headers, payloads = zip(*piece, strict=True)
        session.defer_statement(
            INSERT_OUTBOX,
            queue,
            source,
            uuid_array(event_ids),
            text_array(keys),
            text_array(headers),
            text_array(payloads),
            *array_and_default(topics),
            *array_and_default(types),
            *array_and_default(versions),
        )


LOAD_EFFECTS = Statement(
    "load_effects",
    "SELECT effect_key, fingerprint FROM sluice.executed_side_effects WHERE effect_key = ANY ($1)",
    ("text[]",),
)


def load_effects(session: Session, effect_keys: Sequence[str]) -> dict[str, UUID]:
    """Returns effect key → fingerprint, for the keys that are in the ledger."""
    return dict(session.run(LOAD_EFFECTS, text_array(effect_keys)))


INSERT_EFFECTS = Statement(
    "insert_effects",
    """
    INSERT INTO sluice.executed_side_effects
        (entity, effect_key, effect, identity, entity_key, args, fingerprint, explicit_once)
    SELECT $1, d.effect_key, d.effect, d.identity, d.entity_key, d.args::jsonb, d.fingerprint, d.explicit_once
    FROM unnest($2, $3, $4, $5, $6, $7, $8) WITH ORDINALITY
         AS d (effect_key, effect, identity, entity_key, args, fingerprint, explicit_once, n)
    ON CONFLICT (effect_key) DO NOTHING
    """,
    ("text", "text[]", "text[]", "uuid[]", "text[]", "text[]", "uuid[]", "bool[]"),
)


def insert_effects(session: Session, entity: str, rows: Sequence[LedgerRow]) -> None:
    """Writes calls that must be made.

    Raises RowsChanged if another queue has stored one of the keys meanwhile.
    """
    for piece in in_pieces(rows):
        keys, effects, identities, entity_keys, args, fingerprints, once = zip(*piece, strict=True)
        inserted = session.count(
            INSERT_EFFECTS,
            entity,
            text_array(keys),
            text_array(effects),
            bare_array(identities),
            text_array(entity_keys),
            text_array(args),
            bare_array(fingerprints),
            bare_array(once),
        )
        if inserted != len(piece):
            raise RowsChanged(f"another transaction stored {len(piece) - inserted} of the effect keys")


INSERT_CALL_CONFLICTS = Statement(
    "insert_call_conflicts",
    """
    INSERT INTO sluice.call_conflicts (effect_key, identity, args)
    SELECT d.effect_key, d.identity, d.args::jsonb
    FROM unnest($1, $2, $3) WITH ORDINALITY AS d (effect_key, identity, args, n)
    """,
    ("text[]", "uuid[]", "text[]"),
)


def insert_call_conflicts(session: Session, rows: Sequence[LedgerRow]) -> None:
    """Stores calls that are not made, because their keys are already stored with other args."""
    if rows:
        session.run(
            INSERT_CALL_CONFLICTS,
            text_array(row.effect_key for row in rows),
            bare_array(row.identity for row in rows),
            text_array(row.args for row in rows),
        )
