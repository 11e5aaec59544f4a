"""Installations (name, id and keys), running processes, and work that no process declares."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE sluice.installation (
    is_only boolean DEFAULT true NOT NULL CONSTRAINT installation_one_row CHECK (is_only),
    name text NOT NULL, id uuid NOT NULL, system_identifier text, database_oid bigint NOT NULL,
    rank integer DEFAULT 0 NOT NULL, made_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT installation_pkey PRIMARY KEY (is_only)
);
CREATE TABLE sluice.installation_keys (
    number integer GENERATED ALWAYS AS IDENTITY,
    key bytea NOT NULL CONSTRAINT installation_keys_key_length CHECK (length(key) = 32),
    made_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT installation_keys_pkey PRIMARY KEY (number)
);
CREATE TABLE sluice.claim_key (
    is_only boolean DEFAULT true NOT NULL CONSTRAINT claim_key_one_row CHECK (is_only),
    key bytea NOT NULL CONSTRAINT claim_key_key_length CHECK (length(key) = 32),
    CONSTRAINT claim_key_pkey PRIMARY KEY (is_only)
);
CREATE TABLE sluice.claims (
    id bigint GENERATED ALWAYS AS IDENTITY, claim uuid NOT NULL,
    made_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT claims_pkey PRIMARY KEY (id),
    CONSTRAINT claims_claim_key UNIQUE (claim)
);
CREATE UNLOGGED TABLE sluice.witnessed_claims (
    claim uuid NOT NULL, made_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT witnessed_claims_pkey PRIMARY KEY (claim)
);
CREATE TABLE sluice.processes (
    process uuid NOT NULL,
    kind text NOT NULL CONSTRAINT processes_kind_known CHECK (kind IN ('bridge', 'worker', 'beat')),
    node text NOT NULL, process_id integer NOT NULL, format smallint NOT NULL, key_number integer NOT NULL,
    queues text[], entities jsonb NOT NULL, topics jsonb NOT NULL, effects text[] NOT NULL,
    started_at timestamptz DEFAULT now() NOT NULL, heartbeat_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT processes_pkey PRIMARY KEY (process)
) WITH (fillfactor = '50');
CREATE TABLE sluice.undeclared (
    kind text NOT NULL CONSTRAINT undeclared_kind_known CHECK (kind IN ('topic', 'effect')),
    name text NOT NULL, waited_seconds double precision DEFAULT 0 NOT NULL,
    observed_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT undeclared_pkey PRIMARY KEY (kind, name)
);
CREATE INDEX topics_entity_idx ON sluice.topics (entity);
"""

# Only roles that publish or apply may read the keys. Every role may read the name and the id.
GRANTS = """
GRANT USAGE ON SCHEMA sluice TO PUBLIC;
GRANT SELECT ON sluice.installation TO PUBLIC;
"""


def upgrade() -> None:
    """Creates the tables and grants the rights."""
    for text in (TABLES, GRANTS):
        for statement in filter(str.strip, text.split(";")):
            op.execute(statement)
