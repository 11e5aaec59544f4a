"""Writes a batch of events in one transaction, as fast as possible, for both peers that write batches.

The statements have the same form as Sluice's statements (one parameter per column, prepared once, the same
session settings), so that the bench compares the transport of events, not the SQL.
"""

from collections.abc import Sequence

import msgspec

from bench.peers.event import PeerEvent
from bench.peers.schema import EMITTED_TOPIC, EMITTED_TYPE
from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array, text_array


class Statements:
    """The four statements of one schema."""

    def __init__(self, schema: str) -> None:
        # Rows are sorted by identity, so that two processes cannot deadlock during a rebalance.
        self.claim = Statement(
            "claim",
            f"""
            INSERT INTO {schema}.processed_events (identity, event_id, topic, "partition", "offset")
            SELECT * FROM unnest($1, $2, $3, $4, $5) AS d (identity) ORDER BY d.identity
            ON CONFLICT (identity) DO NOTHING RETURNING identity::text
            """,
            ("uuid[]", "text[]", "text[]", "integer[]", "bigint[]"),
        )
        self.load = Statement(
            "load",
            f"SELECT key, version FROM {schema}.rows WHERE key = ANY ($1) ORDER BY key FOR UPDATE",
            ("text[]",),
        )
        self.upsert = Statement(
            "upsert",
            f"""
            INSERT INTO {schema}.rows AS r (key, version, amount_cents, note)
            SELECT * FROM unnest($1, $2, $3, $4)
            ON CONFLICT (key) DO UPDATE
            SET version = excluded.version, amount_cents = excluded.amount_cents, note = excluded.note
            WHERE r.version < excluded.version
            """,
            ("text[]", "bigint[]", "bigint[]", "text[]"),
        )
        self.emit = Statement(
            "emit",
            f"""
            INSERT INTO {schema}.outbox_events (event_id, topic, key, type, headers, payload)
            SELECT d.event_id, '{EMITTED_TOPIC}', d.key, '{EMITTED_TYPE}', '{{}}',
                   convert_to(d.payload, 'UTF8')
            FROM unnest($1, $2, $3) WITH ORDINALITY AS d (event_id, key, payload, n) ORDER BY d.n
            """,
            ("uuid[]", "text[]", "text[]"),
        )


def write_batch(session: Session, statements: Statements, events: Sequence[PeerEvent]) -> None:
    """Commits identities, rows and outbox of these events. Idempotent by identity."""
    with session.transaction():
        columns = ((e.identity, e.event_id, e.topic, e.partition, e.offset) for e in events)
        identities, event_ids, topics, partitions, offsets = zip(*columns, strict=True)
        claimed = session.run(
            statements.claim,
            bare_array(identities),
            text_array(event_ids),
            text_array(topics),
            bare_array(partitions),
            bare_array(offsets),
        )
        fresh = {identity for (identity,) in claimed}
        keys = sorted({e.key for e in events if e.identity in fresh})
        versions = dict(session.run(statements.load, text_array(keys)))
        newest, applied = fold(events, fresh, versions)
        if applied:
            rows = sorted(newest.values(), key=lambda e: e.key)
            session.run(
                statements.upsert,
                text_array(e.key for e in rows),
                bare_array(e.version for e in rows),
                bare_array(e.amount_cents for e in rows),
                text_array(e.note for e in rows),
            )
            session.run(
                statements.emit,
                bare_array(e.emitted_id for e in applied),
                text_array(e.key for e in applied),
                text_array(emitted_payload(e) for e in applied),
            )


def fold(
    events: Sequence[PeerEvent], fresh: set[str], versions: dict[str, int]
) -> tuple[dict[str, PeerEvent], list[PeerEvent]]:
    """Returns the newest event per key, and every event that is newer than all earlier events of its key.

    Empties `fresh`.
    """
    newest: dict[str, PeerEvent] = {}
    applied: list[PeerEvent] = []
    for event in events:
        if event.identity not in fresh:
            continue
        fresh.discard(event.identity)
        if event.version > versions.get(event.key, -1):
            versions[event.key] = event.version
            newest[event.key] = event
            applied.append(event)
    return newest, applied


def emitted_payload(event: PeerEvent) -> str:
    """Returns the payload of the outgoing event of an applied event."""
    return msgspec.json.encode({"key": event.key, "amount_cents": event.amount_cents}).decode()
