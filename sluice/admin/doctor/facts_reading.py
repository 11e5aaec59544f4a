"""Reads the facts for `sluice doctor`. If a service fails, the error is kept and the others are read."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from psycopg2.errors import InvalidSchemaName, UndefinedColumn, UndefinedTable
from sqlalchemy import Table

from sluice.admin.doctor.facts import (
    DEFAULT_PATIENCE_SECONDS,
    DeclaredFacts,
    Facts,
    KafkaFacts,
    PostgresFacts,
    RedisFacts,
    StuckQueue,
)
from sluice.admin.doctor.installation_reading import read_foreign_claims, read_members
from sluice.admin.doctor.kafka_reading import read_kafka, read_log_starts, read_missing_rights
from sluice.admin.doctor.queue_watch import watch, watch_queues
from sluice.admin.doctor.rules_processes import has_rebuild_worker
from sluice.admin.doctor.situation_reading import read_lengths, read_redis_memory, read_situation
from sluice.admin.service_errors import ServiceFailed, ServiceTitle, reaching_services
from sluice.db.admin.doctor_facts import (
    read_events_without_id,
    read_registered,
    read_user_columns,
)
from sluice.db.admin.projection_letters import count_open
from sluice.db.admin.stored_tables import read_misplaced, read_stored_tables
from sluice.db.admin.waiting_facts import read_generation_progress
from sluice.db.connection import Session
from sluice.db.delivery.undeclared import read_halted
from sluice.db.delivery.unread_partitions import read_unread
from sluice.db.migrations.migrate import current_revision, newest_revision
from sluice.db.projections.stopped_generations import read_stopped_places
from sluice.db.tables import is_projection
from sluice.kafka_io.login_check import find_group_refusal
from sluice.runtime.celery_options import make_celery
from sluice.runtime.installation import Installation
from sluice.runtime.service_urls import StackUrls
from sluice.runtime.settings import Settings
from sluice.tasks.effects.executor import holding_effects
from sluice.tasks.fold.registry import Registry
from sluice.tasks.fold.topic_names import topic_name_flaw

T = TypeVar("T")


@dataclass(frozen=True)
class Looks:
    """The time limits of the checks of `sluice doctor`, in seconds."""

    patience_seconds: float = DEFAULT_PATIENCE_SECONDS
    """Work that waits for longer than this is a finding."""
    watch_seconds: float = 15.0
    """A queue that has messages must commit a batch within this time. The time is longer than a
    slow batch takes.
    """
    inspect_seconds: float = 2.0
    """Workers must answer within this time: a worker answers between two batches."""


def read_facts(settings: Settings, urls: StackUrls, registry: Registry, looks: Looks = Looks()) -> Facts:
    """Reads all facts. Takes longer if a queue has messages and commits nothing."""
    unreachable: dict[ServiceTitle, str] = {}
    failed_services: set[ServiceTitle] = set()

    def tried(service: ServiceTitle, read: Callable[[], T]) -> T | None:
        if service in failed_services:
            return None  # each further attempt would wait for its time-out
        try:
            with reaching_services():
                return read()
        except ServiceFailed as failed:
            unreachable[failed.service] = failed.reason
            failed_services.add(failed.service)
        except Exception as error:
            # Any error of a client becomes a line of the output, and the other facts are shown.
            unreachable[service] = f"{type(error).__name__}: {error}"
        return None

    declared = declared_facts(settings, registry)
    postgres = tried("Postgres", lambda: _postgres(urls.database_url, settings.name, declared))
    registered = postgres.registered.topic_ids if postgres and postgres.registered else ()
    topics = sorted({*registry.topics, *registered})
    installation = _own(postgres)
    stopped = sorted({one.topic for one in postgres.stopped_places}) if postgres else []
    stuck: list[StuckQueue] | None = []
    if postgres is not None and installation is not None:
        stuck = tried("Redis", lambda: _stuck(urls, installation, postgres, looks))
    return Facts(
        declared,
        postgres,
        tried("Redis", lambda: _redis(settings, urls.redis_url, installation, looks)),
        tried("Kafka", lambda: _kafka(urls, registry, topics, postgres)),
        unreachable,
        []
        if installation is None
        else tried(
            "Redis",
            lambda: read_foreign_claims(settings, installation, with_kafka="Kafka" not in failed_services),
        )
        or [],
        (tried("Kafka", partial(read_log_starts, urls.kafka_access, settings.share, stopped)) or {})
        if stopped
        else {},
        None
        if installation is None
        else tried("Kafka", lambda: read_members(urls.kafka_access, installation.group)),
        stuck or [],
        tried("Postgres", lambda: _still(urls, postgres, looks)) or {},
        looks.patience_seconds,
    )


def declared_facts(settings: Settings, registry: Registry) -> DeclaredFacts:
    """Returns what the code and the environment of this process declare."""
    # Tables in other schemas are left out: `sluice init` creates them for users, but they need no
    # check against the tables of Sluice.
    tables: Iterable[Table] = (
        table
        for metadata in registry.metadatas
        for table in metadata.sorted_tables
        if table.schema in (None, "public")
    )
    return DeclaredFacts(
        topics=frozenset(registry.topics),
        shards={entity.name: entity.shards for entity in registry.entities.values()},
        columns={table.name: frozenset(column.name for column in table.columns) for table in tables},
        faults=settings.faults,
        newest_revision=newest_revision(),
        effects=frozenset(registry.effects),
        revisions=registry.revisions,
        keep_identities_days=settings.keep_identities_days,
        share=settings.share,
        schema=settings.schema_,
        plaintext=settings.kafka_access.find_plaintext(),
        tables=list(registry.tables.values()),
        dedup={one.name: one.dedup for one in registry.topics.values()},
        holding=frozenset(holding_effects(registry)),
        unfilled=frozenset(name for name, table in registry.tables.items() if is_projection(table))
        - registry.revisions.keys(),
    )


def _postgres(url: str, name: str, declared: DeclaredFacts) -> PostgresFacts:
    revision = current_revision(url)
    with closing(Session(url, application_name="sluice doctor", may_be_read_only=True)) as session:
        facts = replace(
            read_situation(session, name, declared),
            revision=revision,
            columns=read_user_columns(session),
            misplaced=read_misplaced(session, [table.name for table in declared.tables]),
        )
        with suppress(UndefinedTable, UndefinedColumn, InvalidSchemaName):
            registered = read_registered(session)
            facts = replace(
                facts,
                registered=registered,
                undeclared=read_halted(session),
                unread=read_unread(session, registered.paused_topics),
                tables=read_stored_tables(session, declared.tables),
                without_id=read_events_without_id(session),
                projection_letters=count_open(session),
                stopped_places=read_stopped_places(session),
            )
        return facts


def _kafka(
    urls: StackUrls, registry: Registry, topics: Sequence[str], postgres: PostgresFacts | None
) -> KafkaFacts:
    facts = read_kafka(urls.kafka_access, topics, outgoing_topics(postgres))
    missing = read_missing_rights(urls.kafka_access, registry.topics, registry.outgoing_topics)
    installation = _own(postgres)
    refusal = find_group_refusal(urls.kafka_access, installation.group) if installation else None
    return replace(facts, missing_rights=missing, group_refusal=refusal or "")


def outgoing_topics(postgres: PostgresFacts | None) -> list[str]:
    """Returns the topics of waiting outgoing events, without names that Kafka cannot hold."""
    waiting = postgres.leaving.outgoing if postgres and postgres.leaving else ()
    # Asking for a name that Kafka cannot hold would fail the whole request.
    return [one.topic for one in waiting if topic_name_flaw(one.topic) is None]


def _own(postgres: PostgresFacts | None) -> Installation | None:
    """Returns the installation whose workers may be asked, None for a copied database.

    A copied database has the same id as its original, so the workers with this id belong to the original.
    """
    return None if postgres is None or postgres.refusal is not None else postgres.installation


def _redis(settings: Settings, url: str, installation: Installation | None, looks: Looks) -> RedisFacts:
    facts = read_redis_memory(url)
    if installation is None:
        return facts
    return replace(facts, consumed=_consumed(settings, installation, looks.inspect_seconds))


def _still(urls: StackUrls, postgres: PostgresFacts | None, looks: Looks) -> Mapping[tuple[str, int], float]:
    """Returns the generations that lag and that no worker fills. Returns nothing unless a worker
    serves the queue of rebuilds.
    """
    if postgres is None or postgres.refusal is not None or not has_rebuild_worker(postgres):
        return {}
    lagging = {
        (one.projection, one.generation)
        for one in postgres.generations
        if one.lags and not one.paused and one.rate is None
    }
    if not lagging:
        return {}
    with closing(
        Session(urls.database_url, application_name="sluice doctor", may_be_read_only=True)
    ) as session:
        read = partial(read_generation_progress, session)
        return watch(lagging, read, looks.watch_seconds, sleep=time.sleep, clock=time.monotonic)


def _stuck(
    urls: StackUrls, installation: Installation, postgres: PostgresFacts, looks: Looks
) -> list[StuckQueue]:
    """Returns the queues that have messages and commit nothing, except halted queues and queues
    without a worker.
    """
    registered = postgres.registered
    if registered is None:
        return []
    served = postgres.served_queues
    queues = sorted(name for name in served if registered.queues.get(name, "no such queue") is None)
    with closing(
        Session(urls.database_url, application_name="sluice doctor", may_be_read_only=True)
    ) as session:
        lengths = partial(read_lengths, urls.redis_url, installation.redis_prefix, queues)
        return watch_queues(session, lengths, looks.watch_seconds, sleep=time.sleep, clock=time.monotonic)


def _consumed(settings: Settings, installation: Installation, seconds: float) -> frozenset[str] | None:
    with make_celery(settings, lambda: installation) as app:
        answers = app.control.inspect(timeout=seconds).active_queues()
    if answers is None:
        return None
    return frozenset(queue["name"] for queues in answers.values() for queue in queues)
