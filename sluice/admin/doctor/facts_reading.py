"""Reads the facts that `sluice doctor` judges; a service that fails is noted, and the others are read."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from psycopg2.errors import InvalidSchemaName, UndefinedColumn, UndefinedTable
from redis import Redis
from sqlalchemy import Table

from sluice.admin.connection import read_refusal
from sluice.admin.doctor.facts import (
    DeclaredFacts,
    Facts,
    GenerationFacts,
    LeavingFacts,
    PostgresFacts,
    RedisFacts,
    SharingFacts,
)
from sluice.admin.doctor.installation_reading import read_foreign_claims, read_members
from sluice.admin.doctor.kafka_reading import read_kafka, read_log_starts
from sluice.admin.service_errors import ServiceFailed, ServiceTitle, reaching_services
from sluice.db.admin.call_admin import count_open_calls
from sluice.db.admin.doctor_facts import (
    EventsWithoutId,
    NarrowedQueue,
    read_events_without_id,
    read_narrowed_queues,
    read_registered,
    read_server,
    read_user_columns,
)
from sluice.db.admin.letters import count_parked
from sluice.db.admin.open_issues import read_open_issues
from sluice.db.admin.outbox_admin import read_waiting_topics
from sluice.db.admin.projection_letters import OpenLetterCount, count_open
from sluice.db.admin.retrying import RetryingEvent, read_retrying
from sluice.db.admin.stored_tables import StoredTable, read_misplaced, read_stored_tables
from sluice.db.connection import Session
from sluice.db.delivery.installation import read_installation
from sluice.db.delivery.leases import read_workers
from sluice.db.delivery.living_processes import Process, measure_clock_offset, read_living
from sluice.db.delivery.switches import read_switch
from sluice.db.delivery.undeclared import Undeclared, read_halted
from sluice.db.delivery.unread_partitions import UnreadPartition, read_unread
from sluice.db.migrations.migrate import current_revision, newest_revision
from sluice.db.projections.generations import Generation, read_generations
from sluice.db.projections.stopped_generations import StoppedPlace, read_stopped_places
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.runtime.celery_options import make_celery
from sluice.runtime.installation import Installation
from sluice.runtime.service_urls import StackUrls
from sluice.runtime.settings import Settings
from sluice.tasks.fold.registry import Registry
from sluice.tasks.fold.topic_names import topic_name_flaw

T = TypeVar("T")

REDIS_TIMEOUT_SECONDS = 5

INSPECT_SECONDS = 2.0  # a worker answers between two batches


def read_facts(settings: Settings, urls: StackUrls, registry: Registry) -> Facts:
    """All of it, now."""
    unreachable: dict[ServiceTitle, str] = {}

    def tried(service: ServiceTitle, read: Callable[[], T]) -> T | None:
        try:
            with reaching_services():
                return read()
        except ServiceFailed as failed:
            unreachable[failed.service] = failed.reason
        except Exception as error:
            # A fact that cannot be read is a line, whatever a client raises: the others are shown.
            unreachable[service] = f"{type(error).__name__}: {error}"
        return None

    tables = list(registry.tables.values())
    postgres = tried("Postgres", lambda: _postgres(urls.database_url, settings.name, tables))
    registered = postgres.registered.topic_ids if postgres and postgres.registered else ()
    outgoing = postgres.leaving.outgoing if postgres and postgres.leaving else ()
    # Asking for a name that Kafka cannot hold would fail the whole request.
    sendable = [topic for topic in outgoing if topic_name_flaw(topic) is None]
    topics = sorted({*registry.topics, *registered})
    installation = _own(postgres)
    stopped = sorted({one.topic for one in postgres.stopped_places}) if postgres else []
    return Facts(
        _declared(settings, registry),
        postgres,
        tried("Redis", lambda: _redis(settings, urls.redis_url, installation)),
        tried("Kafka", lambda: read_kafka(urls.kafka_bootstrap_servers, topics, sendable)),
        unreachable,
        []
        if installation is None
        else tried("Redis", lambda: read_foreign_claims(settings, installation)) or [],
        (tried("Kafka", lambda: read_log_starts(urls.kafka_bootstrap_servers, stopped)) if stopped else None)
        or {},
        None
        if installation is None
        else tried("Kafka", lambda: read_members(urls.kafka_bootstrap_servers, installation.group)),
    )


def _declared(settings: Settings, registry: Registry) -> DeclaredFacts:
    tables: Iterable[Table] = (table for metadata in registry.metadatas for table in metadata.sorted_tables)
    return DeclaredFacts(
        topics=frozenset(registry.topics),
        shards={entity.name: entity.shards for entity in registry.entities.values()},
        columns={table.name: frozenset(column.name for column in table.columns) for table in tables},
        faults=settings.faults,
        newest_revision=newest_revision(),
        effects=frozenset(registry.effects),
        revisions=registry.revisions,
        keep_identities_days=settings.keep_identities_days,
        tables=list(registry.tables.values()),
        by_position=frozenset(one.name for one in registry.topics.values() if one.dedup == "position"),
    )


def _postgres(url: str, name: str, tables: Sequence[Table]) -> PostgresFacts:
    revision = current_revision(url)
    with closing(Session(url, application_name="sluice doctor", may_be_read_only=True)) as session:
        registered = leaving = None
        stored = read_installation(session)
        generations: list[GenerationFacts] = []
        sharing = SharingFacts()
        undeclared: list[Undeclared] = []
        living: list[Process] = []
        unread: list[UnreadPartition] = []
        stored_tables: dict[str, StoredTable] = {}
        without_id: list[EventsWithoutId] = []
        retrying: list[RetryingEvent] = []
        narrowed: list[NarrowedQueue] = []
        misplaced = read_misplaced(session, [table.name for table in tables])
        letters: list[OpenLetterCount] = []
        stopped: list[StoppedPlace] = []
        with suppress(UndefinedTable, UndefinedColumn, InvalidSchemaName):
            registered = read_registered(session)
            leaving = _leaving(session)
            generations = [_generation(one) for one in read_generations(session)]
            sharing = _sharing(session)
            undeclared = read_halted(session)
            living = read_living(session)
            unread = read_unread(session, registered.paused_topics)
            stored_tables = read_stored_tables(session, tables)
            without_id = read_events_without_id(session)
            retrying = read_retrying(session)
            narrowed = read_narrowed_queues(session)
            letters = count_open(session)
            stopped = read_stopped_places(session)
        columns = read_user_columns(session)
        server = read_server(session)
        installation = stored.installation if stored else None
        refusal = read_refusal(session, name)
        return PostgresFacts(
            server,
            revision,
            columns,
            registered,
            leaving,
            generations,
            sharing,
            installation,
            refusal,
            undeclared,
            living,
            measure_clock_offset(session),
            unread,
            stored_tables,
            without_id,
            retrying,
            narrowed,
            misplaced,
            letters,
            stopped,
        )


def _own(postgres: PostgresFacts | None) -> Installation | None:
    """The installation whose workers may be asked: those of a copied database's id are the original's."""
    return None if postgres is None or postgres.refusal is not None else postgres.installation


def _sharing(session: Session) -> SharingFacts:
    found = read_workers(session)
    return SharingFacts(len(found.workers), found.holders().keys())


def _generation(one: Generation) -> GenerationFacts:
    idle = datetime.now(UTC) - max(one.created_at, one.live_at or one.created_at)
    days = idle / timedelta(days=1)
    return GenerationFacts(
        one.projection,
        one.generation,
        one.state,
        one.revision,
        one.failed_reason,
        days,
        one.stopped_at is not None,
    )


def _leaving(session: Session) -> LeavingFacts:
    open_issues = read_open_issues(session)
    return LeavingFacts(
        refused_records=open_issues.refused_records,
        uncertain_calls=open_issues.uncertain_calls,
        failed_calls=open_issues.failed_calls,
        effects_paused=read_switch(session, EFFECTS_PAUSED),
        open_calls=count_open_calls(session),
        parked_entities=count_parked(session),
        conflicts=open_issues.conflicts,
        outgoing=read_waiting_topics(session),
    )


def _redis(settings: Settings, url: str, installation: Installation | None) -> RedisFacts:
    limits = {"socket_timeout": REDIS_TIMEOUT_SECONDS, "socket_connect_timeout": REDIS_TIMEOUT_SECONDS}
    with Redis.from_url(url, decode_responses=True, **limits) as redis:
        # INFO, since a managed Redis refuses CONFIG.
        information: Any = redis.info()
    consumed = None if installation is None else _consumed(settings, installation)
    return RedisFacts(
        information["redis_version"],
        information["maxmemory_policy"],
        consumed,
        int(information["used_memory"]),
        int(information["maxmemory"]),
    )


def _consumed(settings: Settings, installation: Installation) -> frozenset[str] | None:
    with make_celery(settings, lambda: installation) as app:
        answers = app.control.inspect(timeout=INSPECT_SECONDS).active_queues()
    if answers is None:
        return None
    return frozenset(queue["name"] for queues in answers.values() for queue in queues)
