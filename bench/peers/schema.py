"""The tables of one peer, similar to those of Sluice: rows with versions, identities, an outbox."""

from sluice.db.connection import Session

EMITTED_TOPIC = "bench-out"
EMITTED_TYPE = "bench.applied"
REJECTED_AMOUNT_CENTS = -2  # every contender refuses an event with this amount in its own code

TABLES = """
DROP SCHEMA IF EXISTS {schema} CASCADE;
CREATE SCHEMA {schema};
CREATE TABLE {schema}.rows (
    key text PRIMARY KEY,
    amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
    note text NOT NULL,
    version bigint
);
CREATE TABLE {schema}.processed_events (
    identity uuid PRIMARY KEY,
    event_id text,
    topic text NOT NULL,
    "partition" integer NOT NULL,
    "offset" bigint NOT NULL,
    processed_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE {schema}.outbox_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id uuid NOT NULL,
    topic text NOT NULL,
    key text,
    type text NOT NULL,
    headers jsonb NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
"""


def create_tables(database_url: str, schema: str) -> None:
    """Drops the tables of this peer and creates them again."""
    session = Session(database_url, application_name="bench-schema")
    try:
        session.command(TABLES.format(schema=schema))
    finally:
        session.close()
