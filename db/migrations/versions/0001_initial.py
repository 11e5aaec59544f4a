"""The first version of all tables of Sluice."""

from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None

TABLES = """
CREATE SEQUENCE sluice.outbox_ids;
CREATE TABLE sluice.audit (
    id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT now() NOT NULL, actor text NOT NULL,
    verb text NOT NULL, subject text NOT NULL, reason text NOT NULL, details jsonb,
    CONSTRAINT audit_pkey PRIMARY KEY (id)
);
CREATE TABLE sluice.call_conflicts (
    id bigint GENERATED ALWAYS AS IDENTITY, effect_key text NOT NULL, identity uuid NOT NULL,
    args jsonb NOT NULL, created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT call_conflicts_pkey PRIMARY KEY (id)
);
CREATE TABLE sluice.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY, topic text NOT NULL, topic_id text NOT NULL,
    partition integer NOT NULL, "offset" bigint NOT NULL, timestamp_ms bigint NOT NULL, key bytea,
    value bytea, headers jsonb NOT NULL, queue text NOT NULL, entity text NOT NULL, entity_key text,
    identity uuid NOT NULL, event_id text, type text, source text, outcome text NOT NULL,
    error_class text NOT NULL, error_text text NOT NULL, attempts integer DEFAULT 1 NOT NULL,
    state text DEFAULT 'dead' NOT NULL, created_at timestamptz DEFAULT now() NOT NULL,
    settled_at timestamptz,
    CONSTRAINT dead_letters_pkey PRIMARY KEY (id),
    CONSTRAINT dead_letters_outcome_known CHECK (outcome IN ('dead', 'conflict', 'waiting')),
    CONSTRAINT dead_letters_record_key UNIQUE (topic_id, partition, "offset"),
    CONSTRAINT dead_letters_state_known CHECK (state IN ('dead', 'waiting', 'dropped', 'done'))
);
CREATE INDEX dead_letters_entity_idx ON sluice.dead_letters (entity, entity_key, id);
CREATE INDEX dead_letters_open_idx ON sluice.dead_letters (state, outcome)
    WHERE state IN ('dead', 'waiting');
CREATE TABLE sluice.entities (
    entity text NOT NULL, shards integer NOT NULL CONSTRAINT entities_shards_positive CHECK (shards > 0),
    epoch integer DEFAULT 1 NOT NULL,
    CONSTRAINT entities_pkey PRIMARY KEY (entity)
);
CREATE TABLE sluice.executed_side_effects (
    effect_key text NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, effect text NOT NULL,
    identity uuid NOT NULL, entity text NOT NULL, entity_key text, args jsonb, fingerprint uuid NOT NULL,
    explicit_once boolean NOT NULL, state text DEFAULT 'pending' NOT NULL,
    attempt smallint DEFAULT 0 NOT NULL, claimed_until timestamptz,
    due_at timestamptz DEFAULT now() NOT NULL, dispatched_at timestamptz, first_attempt_at timestamptz,
    response jsonb, error text, created_at timestamptz DEFAULT now() NOT NULL,
    ended_unknown boolean DEFAULT false NOT NULL, tried smallint DEFAULT 0 NOT NULL, settled_at timestamptz,
    CONSTRAINT executed_side_effects_pkey PRIMARY KEY (effect_key),
    CONSTRAINT executed_side_effects_state_known
        CHECK (state IN ('pending', 'running', 'succeeded', 'failed', 'uncertain'))
);
CREATE INDEX executed_side_effects_claim_idx ON sluice.executed_side_effects (claimed_until)
    WHERE state = 'running';
CREATE INDEX executed_side_effects_due_idx ON sluice.executed_side_effects (due_at, id)
    WHERE state = 'pending';
CREATE INDEX executed_side_effects_ended_idx ON sluice.executed_side_effects (state)
    WHERE state IN ('failed', 'uncertain');
CREATE INDEX executed_side_effects_open_idx
    ON sluice.executed_side_effects (entity, entity_key, effect, id)
    WHERE state <> 'succeeded';
CREATE INDEX executed_side_effects_settled_idx ON sluice.executed_side_effects (settled_at)
    WHERE state = 'succeeded' AND args IS NOT NULL;
CREATE TABLE sluice.outbox_events (
    queue text NOT NULL, id bigint NOT NULL, event_id uuid NOT NULL, topic text NOT NULL, key text,
    type text NOT NULL, version text, headers jsonb NOT NULL, payload bytea NOT NULL,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT outbox_events_pkey PRIMARY KEY (queue, id)
);
CREATE TABLE sluice.outbox_refusals (
    queue text NOT NULL, id bigint NOT NULL, topic text NOT NULL, key text, error text NOT NULL,
    refused_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT outbox_refusals_pkey PRIMARY KEY (queue, id)
);
CREATE INDEX outbox_refusals_held_idx ON sluice.outbox_refusals (topic, key);
CREATE TABLE sluice.processed_events (
    identity uuid NOT NULL, event_id text, data_hash uuid NOT NULL, outcome text NOT NULL,
    topic text NOT NULL, topic_id text NOT NULL, partition integer NOT NULL, "offset" bigint NOT NULL,
    processed_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT processed_events_pkey PRIMARY KEY (identity),
    CONSTRAINT processed_events_outcome_known
        CHECK (outcome IN ('applied', 'duplicate', 'stale', 'conflict', 'waiting', 'dead', 'ignored'))
);
CREATE INDEX processed_events_age_idx ON sluice.processed_events USING brin (processed_at);
CREATE TABLE sluice.projections (
    projection text NOT NULL, live_generation integer NOT NULL, newest_generation integer NOT NULL,
    CONSTRAINT projections_pkey PRIMARY KEY (projection)
);
CREATE TABLE sluice.relay_progress (
    queue text NOT NULL, sent_through bigint NOT NULL,
    CONSTRAINT relay_progress_pkey PRIMARY KEY (queue)
);
CREATE TABLE sluice.switches (
    name text NOT NULL, actor text NOT NULL, reason text NOT NULL,
    set_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT switches_pkey PRIMARY KEY (name)
);
CREATE TABLE sluice.tombstones (
    table_name text NOT NULL, key text NOT NULL, version bigint,
    CONSTRAINT tombstones_pkey PRIMARY KEY (table_name, key)
);
CREATE TABLE sluice.workers (
    backend_pid integer NOT NULL, node text NOT NULL, process_id integer NOT NULL,
    joined_at timestamptz DEFAULT now() NOT NULL, heartbeat_at timestamptz DEFAULT now() NOT NULL,
    leases jsonb NOT NULL, busy_queue text, busy_since timestamptz, last_queue text, last_at timestamptz,
    last_records integer, last_seconds double precision,
    CONSTRAINT workers_pkey PRIMARY KEY (backend_pid)
) WITH (fillfactor = 50);
CREATE TABLE sluice.checkpoints (
    checkpoint text NOT NULL, projection text NOT NULL, generation integer NOT NULL,
    revision integer NOT NULL, made_at timestamptz DEFAULT now() NOT NULL, lanes jsonb NOT NULL,
    open_letters jsonb NOT NULL,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (checkpoint),
    CONSTRAINT checkpoints_projection_fkey FOREIGN KEY(projection)
        REFERENCES sluice.projections (projection)
);
CREATE TABLE sluice.generations (
    projection text NOT NULL, generation integer NOT NULL, state text NOT NULL, revision integer NOT NULL,
    has_been_live boolean DEFAULT false NOT NULL, paused boolean DEFAULT false NOT NULL, rate integer,
    paced_until timestamptz, compacted_topics jsonb DEFAULT '[]' NOT NULL, failed_reason text,
    created_at timestamptz DEFAULT now() NOT NULL, ready_at timestamptz, live_at timestamptz,
    CONSTRAINT generations_pkey PRIMARY KEY (projection, generation),
    CONSTRAINT generations_projection_fkey FOREIGN KEY(projection)
        REFERENCES sluice.projections (projection),
    CONSTRAINT generations_state_known CHECK (state IN ('building', 'failed', 'ready', 'live', 'retired'))
);
CREATE TABLE sluice.queues (
    queue text NOT NULL, entity text NOT NULL, halted_reason text, halted_at timestamptz,
    failure_window text DEFAULT '' NOT NULL, accepted_deaths integer DEFAULT 0 NOT NULL,
    CONSTRAINT queues_pkey PRIMARY KEY (queue),
    CONSTRAINT queues_entity_fkey FOREIGN KEY(entity) REFERENCES sluice.entities (entity),
    CONSTRAINT queues_failure_window_bounded CHECK (length(failure_window) <= 200)
);
CREATE TABLE sluice.topics (
    topic text NOT NULL, topic_id text NOT NULL, entity text NOT NULL,
    CONSTRAINT topics_pkey PRIMARY KEY (topic),
    CONSTRAINT topics_entity_fkey FOREIGN KEY(entity) REFERENCES sluice.entities (entity)
);
CREATE TABLE sluice.generation_deaths (
    projection text NOT NULL, generation integer NOT NULL, topic text NOT NULL, partition integer NOT NULL,
    "offset" bigint NOT NULL, key text, error_class text NOT NULL, error_text text NOT NULL,
    died_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT generation_deaths_pkey PRIMARY KEY (projection, generation, topic, partition, "offset"),
    CONSTRAINT generation_deaths_generation_fkey FOREIGN KEY(projection, generation)
        REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
);
CREATE TABLE sluice.generation_lanes (
    projection text NOT NULL, generation integer NOT NULL, topic text NOT NULL, partition integer NOT NULL,
    queue text NOT NULL, applied_offset bigint NOT NULL, folded bigint DEFAULT 0 NOT NULL,
    passed_duplicate bigint DEFAULT 0 NOT NULL, passed_dead bigint DEFAULT 0 NOT NULL,
    passed_waiting bigint DEFAULT 0 NOT NULL, passed_conflict bigint DEFAULT 0 NOT NULL,
    passed_unknown bigint DEFAULT 0 NOT NULL,
    CONSTRAINT generation_lanes_pkey PRIMARY KEY (projection, generation, topic, partition, queue),
    CONSTRAINT generation_lanes_generation_fkey FOREIGN KEY(projection, generation)
        REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
) WITH (fillfactor = 30);
CREATE TABLE sluice.generation_reports (
    id bigint GENERATED ALWAYS AS IDENTITY, projection text NOT NULL, generation integer NOT NULL,
    against integer NOT NULL, made_at timestamptz DEFAULT now() NOT NULL, differing bigint NOT NULL,
    report jsonb NOT NULL, approved_by text, approved_at timestamptz,
    CONSTRAINT generation_reports_pkey PRIMARY KEY (id),
    CONSTRAINT generation_reports_generation_fkey FOREIGN KEY(projection, generation)
        REFERENCES sluice.generations (projection, generation) ON DELETE CASCADE
);
CREATE TABLE sluice.lane_progress (
    topic text NOT NULL, partition integer NOT NULL, queue text NOT NULL, epoch integer NOT NULL,
    applied_offset bigint NOT NULL, applied bigint DEFAULT 0 NOT NULL, duplicate bigint DEFAULT 0 NOT NULL,
    stale bigint DEFAULT 0 NOT NULL, conflict bigint DEFAULT 0 NOT NULL, waiting bigint DEFAULT 0 NOT NULL,
    dead bigint DEFAULT 0 NOT NULL, ignored bigint DEFAULT 0 NOT NULL,
    call_conflict bigint DEFAULT 0 NOT NULL,
    CONSTRAINT lane_progress_pkey PRIMARY KEY (topic, partition, queue, epoch),
    CONSTRAINT lane_progress_queue_fkey FOREIGN KEY(queue) REFERENCES sluice.queues (queue)
) WITH (fillfactor = 30);
CREATE INDEX lane_progress_queue_idx ON sluice.lane_progress (queue, epoch);
CREATE TABLE sluice.parked_entities (
    entity text NOT NULL, key text NOT NULL, queue text NOT NULL, reason text NOT NULL,
    parked_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT parked_entities_pkey PRIMARY KEY (entity, key),
    CONSTRAINT parked_entities_queue_fkey FOREIGN KEY(queue) REFERENCES sluice.queues (queue)
);
CREATE TABLE sluice.partition_progress (
    topic text NOT NULL, partition integer NOT NULL, epoch integer NOT NULL, watermark bigint NOT NULL,
    CONSTRAINT partition_progress_pkey PRIMARY KEY (topic, partition),
    CONSTRAINT partition_progress_topic_fkey FOREIGN KEY(topic) REFERENCES sluice.topics (topic)
) WITH (fillfactor = 50);
"""


def upgrade() -> None:
    """Creates the tables."""
    op.execute(TABLES)
