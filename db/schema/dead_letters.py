"""Events that failed, and the entities that wait for them."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from sluice.db.records import LetterState, Outcome, RetryKind
from sluice.db.schema.declarations import format_column, metadata, now_column, one_of
from sluice.db.schema.progress import queues

dead_letters = Table(
    "dead_letters",
    metadata,
    # Ids are drawn under the queue's lock. An entity's letters are redriven in the order of their ids.
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("topic_id", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("timestamp_ms", BigInteger, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", JSONB, nullable=False),
    Column("queue", Text, nullable=False),
    Column("entity", Text, nullable=False),
    Column("entity_key", Text),
    Column("identity", Uuid, nullable=False),
    Column("event_id", Text),
    Column("type", Text),
    Column("source", Text),
    Column("outcome", Text, nullable=False),
    Column("error_class", Text, nullable=False),
    Column("error_text", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("1")),
    Column("state", Text, nullable=False, server_default=LetterState.DEAD.value),
    now_column("created_at"),
    Column("settled_at", DateTime(timezone=True)),
    format_column(),
    # The missing parts of the record; NULL if the whole record is stored.
    Column("flaw", JSONB),
    # The handler's frames, with a limited size; NULL if no handler raised an error.
    Column("traceback", Text),
    UniqueConstraint("topic_id", "partition", "offset", name="dead_letters_record_key"),
    one_of("outcome", (Outcome.DEAD, Outcome.CONFLICT, Outcome.WAITING)),
    one_of("state", (state for state in LetterState if state is not LetterState.RETRYING)),
)
Index("dead_letters_entity_idx", dead_letters.c.entity, dead_letters.c.entity_key, dead_letters.c.id)
# For open letters, which are counted every few seconds. The count must be fast even with very many settled
# letters.
Index(
    "dead_letters_open_idx",
    dead_letters.c.state,
    dead_letters.c.outcome,
    postgresql_where=text("state IN ('dead', 'waiting')"),
)

parked_entities = Table(
    "parked_entities",
    metadata,
    Column("entity", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("queue", Text, ForeignKey(queues.c.queue), nullable=False),
    Column("reason", Text, nullable=False),
    now_column("parked_at"),
    PrimaryKeyConstraint("entity", "key"),
)

# One row per entity, for its first waiting letter.
retries = Table(
    "retries",
    metadata,
    Column("letter_id", BigInteger, ForeignKey(dead_letters.c.id, ondelete="CASCADE"), primary_key=True),
    Column("queue", Text, nullable=False),
    Column("entity", Text, nullable=False),
    Column("key", Text),
    Column("kind", Text, nullable=False),
    # The number of time-outs that count. A time-out counts only if the same worker has committed other events
    # of the queue since the previous time-out.
    Column("failures", Integer, nullable=False, server_default=text("0")),
    # Consecutive failed attempts at this letter.
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    now_column("set_aside_at"),
    Column("retry_at", DateTime(timezone=True), nullable=False),
    # The sessions that held a row or a lock that the event needs, at the time of the last search.
    Column("blockers", JSONB),
    Column("blockers_at", DateTime(timezone=True)),
    one_of("kind", RetryKind),
)
Index("retries_queue_idx", retries.c.queue, retries.c.retry_at)
Index("retries_entity_idx", retries.c.entity, retries.c.key)
