"""The facts from which the rules of `sluice doctor` make findings. Pure."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from sqlalchemy import Table

from sluice.admin.service_errors import ServiceTitle
from sluice.db.admin.doctor_facts import EventsWithoutId, NarrowedQueue, Registered, ServerSettings
from sluice.db.admin.projection_letters import OpenLetterCount
from sluice.db.admin.retrying import RetryingEvent
from sluice.db.admin.server_facts import NO_REPLICATION, Blocker, Horizon, Replication
from sluice.db.admin.stored_tables import StoredTable
from sluice.db.admin.waiting_facts import DueCalls, EventDeath, HoldingCall, WaitingTopic
from sluice.db.delivery.living_processes import Process
from sluice.db.delivery.undeclared import Undeclared
from sluice.db.delivery.unread_partitions import UnreadPartition
from sluice.db.projections.stopped_generations import StoppedPlace
from sluice.db.records import ProcessKind
from sluice.runtime.installation import Installation
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place
from sluice.runtime.schema_name import DEFAULT_SCHEMA

DEFAULT_PATIENCE_SECONDS = 60.0
NO_CALLS = DueCalls()


@dataclass(frozen=True)
class DeclaredFacts:
    """What the code and the environment of this process declare."""

    topics: Set[str]
    shards: Mapping[str, int]
    """Entity type → shard count."""
    columns: Mapping[str, Set[str]]
    """Users' table → its columns."""
    faults: str
    newest_revision: str | None
    effects: Set[str] = frozenset()
    revisions: Mapping[str, int] = field(default_factory=dict)
    """Projection → the revision of the code that fills it."""
    keep_identities_days: int = 30
    tables: Sequence[Table] = ()
    """The tables that `entity_table` and `projection_table` made."""
    dedup: Mapping[str, str] = field(default_factory=dict)
    """Topic → how its repeated events are recognised; "id" if it is missing."""
    holding: Set[str] = frozenset()
    """Effects whose failed or uncertain calls hold back later calls of the entity."""
    unfilled: Set[str] = frozenset()
    """Projections that no handler here fills."""
    share: PartitionShare = WHOLE
    schema: str = DEFAULT_SCHEMA
    """The schema with Sluice's own tables."""
    plaintext: Sequence[str] = ()
    """Brokers on other machines that the clients reach without TLS."""


@dataclass(frozen=True)
class LeavingFacts:
    """Outgoing events, calls, and the work that waits for an operator."""

    refused_records: int = 0
    uncertain_calls: int = 0
    failed_calls: int = 0
    effects_paused: str | None = None
    """Why all calls are paused, if they are."""
    open_calls: Mapping[str, int] = field(default_factory=dict)
    """Effect → number of calls that have not succeeded."""
    parked_entities: int = 0
    conflicts: int = 0
    outgoing: Sequence[WaitingTopic] = ()
    """The topics for which outgoing events wait to be sent."""
    due_calls: DueCalls = NO_CALLS
    """Calls of declared effects that a worker could make now."""
    holding_calls: Sequence[HoldingCall] = ()
    """Calls that later calls of their entity wait for."""


@dataclass(frozen=True)
class GenerationFacts:
    """One generation of a projection. `idle_days` are the days since the generation was started or
    was last live.
    """

    projection: str
    generation: int
    state: str
    revision: int
    failed_reason: str | None
    idle_days: float
    keeps_place: bool = True
    """True if a stopped generation can catch up from the log."""
    paused: bool = False
    lags: bool = False
    """True if it has not applied all events that the live generation has applied."""
    rate: int | None = None
    """Maximum events per second of its rebuild; None means unlimited."""


@dataclass(frozen=True)
class SharingFacts:
    """The workers that share the queues. These workers hold leases in Postgres."""

    workers: int = 0
    leased: frozenset[str] = frozenset()
    """The queues for which one of these workers has a lease."""


@dataclass(frozen=True)
class WorkingFacts:
    """Facts in Postgres about the processing of events, and about what delays it."""

    beat_silence: float | None = 0.0
    """Seconds since the last heartbeat of the beat that schedules; None if no beat schedules."""
    replication: Replication = NO_REPLICATION
    horizons: Sequence[Horizon] = ()
    """Transactions, slots and standbys that prevent vacuum from cleaning, the oldest first."""
    deaths: Sequence[EventDeath] = ()
    """Events whose handlers were running when their worker ended."""


@dataclass(frozen=True)
class StuckQueue:
    """A queue whose list had messages at the first and the last check, with no commit between them."""

    queue: str
    messages: int
    seconds: float
    """The time between the two checks."""
    blockers: Sequence[Blocker] = ()
    """Sessions of other applications for which sessions of Sluice waited between the checks."""


@dataclass(frozen=True)
class PostgresFacts:
    """`registered` and `leaving` are None if migrations are missing, because the tables cannot be
    read then.
    """

    server: ServerSettings
    revision: str | None
    columns: Mapping[str, Set[str]]
    registered: Registered | None
    leaving: LeavingFacts | None = None
    generations: Sequence[GenerationFacts] = ()
    sharing: SharingFacts = SharingFacts()
    installation: Installation | None = None
    refusal: str | None = None
    """Why no process works with this database."""
    undeclared: Sequence[Undeclared] = ()
    """Topics and effects that are halted because no running worker declares them."""
    living: Sequence[Process] = ()
    """The bridges, workers and beats that are alive."""
    clock_offset: float = 0.0
    """The clock of this machine minus the clock of Postgres, in seconds."""
    unread: Sequence[UnreadPartition] = ()
    """The partitions that no bridge reads, or that a bridge stopped reading."""
    tables: Mapping[str, StoredTable] = field(default_factory=dict)
    """Declared table → the table in Postgres that holds its rows."""
    without_id: Sequence[EventsWithoutId] = ()
    """The topics that had events without id."""
    retrying: Sequence[RetryingEvent] = ()
    """The events that were set aside for later retries, oldest first."""
    narrowed: Sequence[NarrowedQueue] = ()
    """The queues whose batches fail for a reason that no single event causes."""
    misplaced: Sequence[str] = ()
    """Declared tables for which Sluice's own schema has a table with the same name."""
    projection_letters: Sequence[OpenLetterCount] = ()
    """The projections to which events could not be applied."""
    stopped_places: Sequence[StoppedPlace] = ()
    """The partitions from which stopped generations have not applied all events."""
    working: WorkingFacts | None = None

    @property
    def bridges(self) -> list[Process]:
        """Returns the bridges that are alive."""
        return [one for one in self.living if one.kind is ProcessKind.BRIDGE]

    @property
    def served_queues(self) -> frozenset[str]:
        """Returns the queues with a lease, and the queues that a running worker names with --queues.

        Both are read from Postgres, because a worker in a long batch does not answer.
        """
        return self.sharing.leased.union(*(one.queues or () for one in self.living))


@dataclass(frozen=True)
class RedisFacts:
    """`consumed` are the queues that workers reported as theirs; None if no worker answered."""

    version: str
    eviction_policy: str
    consumed: Set[str] | None
    used_bytes: int = 0
    max_bytes: int = 0
    """0 means no limit."""


@dataclass(frozen=True)
class TopicFacts:
    """One topic in Kafka. `retention_ms` is −1 if records are kept without limit.

    The settings are None if Kafka does not return them.
    """

    topic_id: str
    partitions: int
    replicas: int
    min_insync_replicas: int | None
    cleanup_policy: str | None
    retention_ms: int | None
    segment_ms: int | None
    without_leader: Sequence[int] = ()
    """Its partitions that have no leader now."""


@dataclass(frozen=True)
class KafkaFacts:
    """The declared and registered topics."""

    topics: Mapping[str, TopicFacts]
    """The topics that exist."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Topic that Kafka does not describe → the error."""
    missing_outgoing: Set[str] = frozenset()
    """Topics that do not exist and for which outgoing events wait."""
    missing_rights: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Topic → the operations that this user may not use, as Kafka names them."""
    group_refusal: str = ""
    """The right to the consumer group that this user lacks, as a sentence; "" if it lacks none."""


@dataclass(frozen=True)
class ForeignClaim:
    """The claim of a bridge of another database with the same id."""

    writer: str
    rank: int
    age_seconds: int


@dataclass(frozen=True)
class Facts:
    """All facts. A service is None if it was not reached; then `unreachable` has the reason."""

    declared: DeclaredFacts
    postgres: PostgresFacts | None
    redis: RedisFacts | None
    kafka: KafkaFacts | None
    unreachable: Mapping[ServiceTitle, str]
    """Service → reason."""
    foreign_claims: Sequence[ForeignClaim] = ()
    log_starts: Mapping[Place, int] = field(default_factory=dict)
    """The log starts of the partitions from which stopped generations have not applied all events."""
    members: Sequence[str | None] | None = None
    """The static names of the members of the consumer group; None if they could not be read."""
    stuck: Sequence[StuckQueue] = ()
    still: Mapping[tuple[str, int], float] = field(default_factory=dict)
    """Projection and generation that lag and are not filled → seconds between the two checks."""
    patience_seconds: float = DEFAULT_PATIENCE_SECONDS
    """Work that waits for longer than this is a finding."""
