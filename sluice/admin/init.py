"""Prepares a deployment: migrations, users' tables, Kafka topics, entity types and their queues."""

from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field

from kafka.errors import (
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from sluice.admin.doctor.findings import Finding, worst_first
from sluice.admin.installation import Changed
from sluice.admin.table_drift import drift_findings, misplaced_finding, missing_findings
from sluice.db.admin.doctor_facts import read_user_columns
from sluice.db.admin.stored_tables import read_misplaced, read_stored_tables
from sluice.db.admin.totals import read_positions
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import read_all_modes
from sluice.db.delivery.installation import create_installation
from sluice.db.delivery.progress import register_entity
from sluice.db.migrations.migrate import create_projections, create_user_tables, upgrade
from sluice.db.migrations.script import missing_ddl
from sluice.db.tables import TableRefused, is_projection
from sluice.kafka_io.config import build_kafka_python_admin
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.service_urls import StackUrls
from sluice.tasks.apply.topic_modes import differences
from sluice.tasks.fold.registry import FIRST_REVISION, Registry
from sluice.tasks.installation.opening import check_installation

DEFAULT_PARTITIONS = 12  # of a new topic: enough for 12 bridges; cannot be lowered later
NO_DDL = (
    "the database lacks tables or migrations, and --no-ddl creates none; a role that may create them runs the"
    " statements that `sluice init --sql` prints"
)
METADATA_TIMEOUT_MS = 60_000  # until new topics have leaders: usually below a second


@dataclass
class Initialised:
    """The result of `sluice init`: the created objects, and the findings."""

    installation: str = ""
    """`<name>-<short id>`."""
    tables: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    shards: dict[str, int] = field(default_factory=dict)
    """Entity type → the shard count in Postgres, which is used."""
    dedup: list[str] = field(default_factory=list)
    """Sentences on topics whose declared `dedup` differs from Postgres."""
    projections: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """How the users' tables in Postgres differ from their declarations."""
    has_events: bool = False
    """True if events were applied before, which a new projection lacks."""
    changed: Changed | None = None
    """The requested change of the installation."""


def initialise(
    urls: StackUrls,
    registry: Registry,
    *,
    name: str = "sluice",
    share: PartitionShare = WHOLE,
    partitions: int = DEFAULT_PARTITIONS,
    replication_factor: int = 1,
    with_topics: bool = True,
    may_run_ddl: bool = True,
    change: Callable[[Session, str], Changed] | None = None,
) -> Initialised:
    """Creates all objects that a bridge and workers need. Idempotent.

    Calls `change` with the name, one time, before the installation is checked. Without `with_topics`, creates
    no topic; then only a share of the partitions needs Kafka. Without `may_run_ddl`, refuses a database that
    lacks an object, and creates rows and topics only. Raises InstallationRefused if the database belongs to
    another installation, is a copy, or is newer than this code, and if `share` does not divide the partitions
    of a topic.
    """
    made = Initialised()
    if not share.is_whole:
        # Before the share is stored, because a stored share cannot be changed.
        _refuse_undivided(urls.kafka_access, registry, share, partitions)
    if not may_run_ddl and missing_sql(urls.database_url, registry):
        raise InstallationRefused(NO_DDL)
    upgrade(urls.database_url)
    with closing(Session(urls.database_url, application_name="sluice init")) as session:
        create_installation(session, name, share)
        if change is not None:
            made.changed = change(session, name)
        stored = check_installation(session, name=name, share=share)
        made.installation = stored.installation.group
        _refuse_misplaced(session, registry)
    made.tables, made.projections = create_tables(urls.database_url, registry)
    if with_topics:
        made.topics = create_topics(urls.kafka_access, registry, partitions, replication_factor)
    session = Session(urls.database_url, application_name="sluice init")
    try:
        for entity in registry.entities.values():
            made.shards[entity.name] = register_entity(session, entity.name, entity.shards)
        made.dedup = differences(registry.topics.values(), read_all_modes(session))
        made.has_events = any(mark > 0 for mark in read_positions(session).values())
        made.findings = _compare_tables(session, registry)
    finally:
        session.close()
    return made


def _refuse_undivided(
    access: KafkaAccess, registry: Registry, share: PartitionShare, new_partitions: int
) -> None:
    with closing(build_kafka_python_admin(access)) as admin:
        described = admin.describe_topics(sorted(registry.topics))
    counts = {topic["name"]: len(topic["partitions"]) or new_partitions for topic in described}
    flaws = [str(flaw) for topic, count in sorted(counts.items()) if (flaw := share.flaw(topic, count))]
    if flaws:
        raise InstallationRefused("; ".join(flaws))


def _refuse_misplaced(session: Session, registry: Registry) -> None:
    """Raises TableRefused if a users' table is in Sluice's own schema: `init` would create a
    second, empty table.
    """
    names = {table.name for metadata in registry.metadatas for table in metadata.tables.values()}
    missing = [name for name in read_misplaced(session, names) if name not in read_user_columns(session)]
    if missing:
        found = [misplaced_finding(name, session.schema, is_missing=True) for name in missing]
        raise TableRefused(" ".join(f"{one.problem} {one.advice}" for one in found))


def missing_sql(database_url: str, registry: Registry) -> str:
    """Returns the DDL that the database lacks; "" if it lacks none. Raises InstallationRefused."""
    projections = {name: table for name, table in registry.tables.items() if is_projection(table)}
    return missing_ddl(database_url, registry.metadatas, projections)


def create_tables(database_url: str, registry: Registry) -> tuple[list[str], list[str]]:
    """Creates the users' tables and projections that are missing; returns their names. Idempotent."""
    tables = create_user_tables(database_url, registry.metadatas)
    projections = {name: table for name, table in registry.tables.items() if is_projection(table)}
    # A projection without handlers has no revision yet.
    revisions = {name: registry.revisions.get(name, FIRST_REVISION) for name in projections}
    return tables, create_projections(database_url, projections, revisions)


def _compare_tables(session: Session, registry: Registry) -> list[Finding]:
    tables = registry.tables.values()
    columns = {table.name: frozenset(column.name for column in table.columns) for table in tables}
    unfilled = {table.name for table in tables if is_projection(table)} - registry.revisions.keys()
    misplaced = read_misplaced(session, columns)
    stored = read_stored_tables(session, tables)
    found = read_user_columns(session)
    missing = missing_findings(columns, found, misplaced, unfilled, tables, stored, session.schema)
    drift = drift_findings(tables, stored, unfilled)
    return worst_first([*missing, *drift])


def _refuse_undescribed(access: KafkaAccess, found: Mapping[str, int]) -> None:
    names = [name for name, code in found.items() if code == TopicAuthorizationFailedError.errno]
    if names:
        user = access.security.kafka_username or "the user of this command"
        raise InstallationRefused(
            f"Kafka refuses to describe the topics {', '.join(names)} to {user}; grant Describe on the topics"
        )


def create_topics(
    access: KafkaAccess, registry: Registry, partitions: int, replication_factor: int
) -> list[str]:
    """Creates the topics that Kafka lacks and waits until they can be used; returns their names.

    Raises InstallationRefused if this user may not describe a topic: Kafka then does not list the topic.
    """
    admin = build_kafka_python_admin(access)
    try:
        wanted = registry.topics.keys() | registry.outgoing_topics
        found = {topic["name"]: topic["error_code"] for topic in admin.describe_topics(sorted(wanted))}
        _refuse_undescribed(access, found)
        missing = sorted(name for name, code in found.items() if code == UnknownTopicOrPartitionError.errno)
        if missing:
            shape = {"num_partitions": partitions, "replication_factor": replication_factor}
            # Another init may create some of them at the same time; Kafka then still creates the others.
            with suppress(TopicAlreadyExistsError):
                admin.create_topics(dict.fromkeys(missing, shape))
            admin.wait_for_topics(missing, timeout_ms=METADATA_TIMEOUT_MS)
        return missing
    finally:
        admin.close()
