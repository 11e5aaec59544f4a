"""Rows of Sluice's own tables as plain values, and the states that these tables allow.

The CHECK constraints of `db/schema` are made from these enums. A row that was read contains a state as a
text, which equals the member of the enum.
"""

from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


class Outcome(StrEnum):
    """The result of a record. Every record has exactly one outcome."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    STALE = "stale"
    CONFLICT = "conflict"
    WAITING = "waiting"
    DEAD = "dead"
    IGNORED = "ignored"
    ERASED = "erased"
    """The record was passed over, because an operator erased its entity after the record was written."""


class LetterState(StrEnum):
    """The states of a dead letter. It is dead, waiting or retrying until it is applied (done) or dropped."""

    DEAD = "dead"
    WAITING = "waiting"
    RETRYING = "retrying"
    """This state is shown, but never stored. The letter is stored as waiting, and has a row in `retries`."""
    DROPPED = "dropped"
    DONE = "done"


class RetryKind(StrEnum):
    """The reason why an event was set aside. Such an event is retried without an operator."""

    TIMED_OUT = "timed_out"
    ROW_HELD = "row_held"
    """Another session holds a row, a table, a key or an advisory lock that the event needs."""
    UNAVAILABLE = "unavailable"
    """The server refused the event for another reason that may end by itself."""


class CallState(StrEnum):
    """The states of a call to a provider."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNCERTAIN = "uncertain"


class ProcessKind(StrEnum):
    """The kinds of processes that hold a row in `processes`."""

    BRIDGE = "bridge"
    WORKER = "worker"
    BEAT = "beat"


class Declaration(StrEnum):
    """The kinds of work that a process must declare before it does them."""

    TOPIC = "topic"
    EFFECT = "effect"


class ProblemKind(StrEnum):
    """A problem that keeps a bridge from reading a partition.

    If there are several, the last in this list counts.
    """

    KAFKA_ERROR = "kafka_error"
    NO_LEADER = "no_leader"
    NOT_AUTHORIZED = "not_authorized"
    UNREADABLE_RECORD = "unreadable_record"
    STOPPED = "stopped"
    """Further reading would skip records, so an operator must decide."""


class GenerationState(StrEnum):
    """The states of a projection's generation."""

    BUILDING = "building"
    FAILED = "failed"
    READY = "ready"
    LIVE = "live"
    RETIRED = "retired"
    STOPPED = "stopped"
    """The generation is or was live, and receives no more events. Its offset in each lane is kept."""
    RESUMING = "resuming"
    """The generation was stopped, and now catches up from the log."""


class DedupMode(StrEnum):
    """How a repeated event of a topic is recognised."""

    ID = "id"
    POSITION = "position"
    NATURAL = "natural"
    """Not at all: the event changes nothing if it is applied again."""


class PartitionProblem(NamedTuple):
    """The reason why a partition is not read. `detail` is a sentence with the failure and the remedy."""

    kind: ProblemKind
    detail: str
    offset: int | None = None
    """The offset of the record that causes the problem, if a record causes it."""


class WaitingRow(NamedTuple):
    """One outgoing event. `event_id` and `headers` (a JSON object) are texts.

    `source` is None if an earlier version wrote the row.
    """

    queue: str
    id: int
    event_id: str
    topic: str
    key: str | None
    type: str
    version: str | None
    headers: str
    payload: memoryview
    source: str | None = None


class ProcessedRow(NamedTuple):
    """One row of `processed_events`, with the names of its columns."""

    identity: UUID
    event_id: str | None
    data_hash: UUID
    outcome: Outcome
    topic: str
    topic_id: str
    partition: int
    offset: int


class OutboxRow(NamedTuple):
    """An outgoing event. `headers` is a JSON object and `payload` any JSON value, both as text."""

    event_id: UUID
    topic: str
    key: str | None
    type: str
    version: str | None
    headers: str
    payload: str


class LedgerRow(NamedTuple):
    """A call that must be made. `args` is canonical JSON text, and `fingerprint` is the hash of this text."""

    effect_key: str
    effect: str
    identity: UUID
    entity_key: str | None
    args: str
    fingerprint: UUID
    explicit_once: bool


RECORD_SKIPPED = "RecordSkipped"
"""The error class of a dead letter whose record an operator skipped. Sluice has never read this record."""


ENTITY_ERASED = "EntityErased"
"""The error class of a letter whose entity an operator erased.

Only offset and identity of the letter are kept.
"""


class DeadLetterRow(NamedTuple):
    """A record as read from Kafka, and the reason why it is stored as a letter.

    `key` and `value` are in hex, and `headers` is JSON. `flaw` is a JSON object that describes the missing
    parts; None if the record is whole. `traceback` is the handler's frames as text; None if no handler raised
    an error.
    """

    topic: str
    topic_id: str
    partition: int
    offset: int
    timestamp_ms: int
    key: str | None
    value: str | None
    headers: str
    entity_key: str | None
    identity: UUID
    event_id: str | None
    type: str | None
    source: str | None
    outcome: Outcome
    error_class: str
    error_text: str
    flaw: str | None = None
    format: int = 1
    traceback: str | None = None


class KnownClaims(NamedTuple):
    """The facts that a database has stored about given claims."""

    rank: int
    """The rank of the database, which `sluice init --original` raises."""
    now: int
    """The time of the database, in seconds since 1970."""
    claims: frozenset[UUID]
    """The given claims that the database has stored."""
    witnessed: frozenset[UUID]
    """The given claims that this server itself has stored. No copy of the database contains them."""
