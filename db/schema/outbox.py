"""Tables of outgoing events and calls."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from sluice.db.records import CallState
from sluice.db.schema.declarations import format_column, metadata, moment_column, now_column, one_of

outbox_ids = Sequence("outbox_ids", metadata=metadata)

outbox_events = Table(
    "outbox_events",
    metadata,
    Column("queue", Text, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text),
    Column("type", Text, nullable=False),
    Column("version", Text),
    Column("headers", JSONB, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    now_column("created_at"),
    # Set when the row is written, so a new SLUICE_SOURCE does not change waiting rows. NULL means the source
    # of the relay.
    Column("source", Text),
    format_column(),
    PrimaryKeyConstraint("queue", "id"),
)
# This index is empty while all processes have the same version.
_outbox = outbox_events.c
Index(
    "outbox_events_newer_idx",
    _outbox.queue,
    _outbox.topic,
    _outbox.key,
    _outbox.id,
    postgresql_where=text("format > 1"),
)

relay_progress = Table(
    "relay_progress",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("sent_through", BigInteger, nullable=False),
)

# Records that the broker refuses permanently. Each refusal holds back only the rows with the same topic and
# key in its queue. There is no foreign key to the outbox, because its trigger would run for every row that
# the relay deletes.
outbox_refusals = Table(
    "outbox_refusals",
    metadata,
    Column("queue", Text, nullable=False),
    Column("id", BigInteger, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text),
    Column("error", Text, nullable=False),
    now_column("refused_at"),
    PrimaryKeyConstraint("queue", "id"),
)
Index("outbox_refusals_held_idx", outbox_refusals.c.topic, outbox_refusals.c.key)

executed_side_effects = Table(
    "executed_side_effects",
    metadata,
    Column("effect_key", Text, primary_key=True),
    Column("id", BigInteger, Identity(always=True), nullable=False),
    Column("effect", Text, nullable=False),
    Column("identity", Uuid, nullable=False),
    Column("entity", Text, nullable=False),
    Column("entity_key", Text),
    # NULL after the retention time. From then on, only the key of the call is kept.
    Column("args", JSONB),
    Column("fingerprint", Uuid, nullable=False),
    Column("explicit_once", Boolean, nullable=False),
    Column("state", Text, nullable=False, server_default=CallState.PENDING.value),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    Column("claimed_until", DateTime(timezone=True)),
    now_column("due_at"),
    Column("dispatched_at", DateTime(timezone=True)),
    Column("first_attempt_at", DateTime(timezone=True)),
    Column("response", JSONB),
    Column("error", Text),
    moment_column("created_at"),
    # True if an attempt ended with an unknown result of the provider.
    Column("ended_unknown", Boolean, nullable=False, server_default=text("false")),
    # The number of attempts since the last release. `attempt` never decreases, and identifies the answer that
    # counts.
    Column("tried", SmallInteger, nullable=False, server_default=text("0")),
    Column("settled_at", DateTime(timezone=True)),
    format_column(),
    one_of("state", CallState),
)
_effects = executed_side_effects.c
Index(
    "executed_side_effects_due_idx",
    _effects.due_at,
    _effects.id,
    postgresql_where=text("state = 'pending'"),
)
# For the due calls of one effect, and for the list of effects with pending calls. Both must be fast even with
# many calls.
Index(
    "executed_side_effects_waiting_idx",
    _effects.effect,
    _effects.due_at,
    _effects.id,
    postgresql_where=text("state = 'pending'"),
)
Index("executed_side_effects_newer_idx", _effects.state, postgresql_where=text("format > 1"))
Index("executed_side_effects_claim_idx", _effects.claimed_until, postgresql_where=text("state = 'running'"))
# For the running call of the same entity.
Index(
    "executed_side_effects_running_idx",
    _effects.entity,
    _effects.entity_key,
    _effects.effect,
    postgresql_where=text("state = 'running'"),
)
# For the earlier calls of the same entity.
Index(
    "executed_side_effects_open_idx",
    _effects.entity,
    _effects.entity_key,
    _effects.effect,
    _effects.id,
    postgresql_where=text("state <> 'succeeded'"),
)
# For calls that need an operator. They are counted every few seconds, and the count must be fast even with
# many pending calls.
Index(
    "executed_side_effects_ended_idx",
    _effects.state,
    postgresql_where=text("state IN ('failed', 'uncertain')"),
)
Index(
    "executed_side_effects_settled_idx",
    _effects.settled_at,
    postgresql_where=text("state = 'succeeded' AND args IS NOT NULL"),
)

call_conflicts = Table(
    "call_conflicts",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("effect_key", Text, nullable=False),
    Column("identity", Uuid, nullable=False),
    Column("args", JSONB, nullable=False),
    now_column("created_at"),
)
