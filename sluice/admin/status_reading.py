"""Reads the facts for `sluice status`. If a service fails, the error is kept and the others are read."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from sluice.admin.connection import read_refusal
from sluice.admin.doctor.facts import DEFAULT_PATIENCE_SECONDS, Facts, KafkaFacts
from sluice.admin.doctor.facts_reading import declared_facts, outgoing_topics
from sluice.admin.doctor.kafka_reading import find_missing_topics
from sluice.admin.doctor.situation_reading import read_lengths, read_redis_memory, read_situation
from sluice.admin.service_errors import ServiceFailed, ServiceTitle, reaching_services
from sluice.admin.status import Reading, unapplied
from sluice.db.admin.letters import count_parked
from sluice.db.admin.retrying import count_retrying
from sluice.db.admin.totals import read_progress
from sluice.db.connection import Session
from sluice.db.delivery.installation import read_installation
from sluice.db.delivery.leases import read_workers
from sluice.db.delivery.switches import read_paused_topics, read_switch
from sluice.db.delivery.undeclared import read_halted
from sluice.db.delivery.unread_partitions import read_unread
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.service_urls import StackUrls
from sluice.runtime.settings import Settings
from sluice.tasks.events.routing import queue_name
from sluice.tasks.fold.registry import Registry


def read_status(
    settings: Settings,
    urls: StackUrls,
    registry: Registry,
    *,
    patience_seconds: float = DEFAULT_PATIENCE_SECONDS,
) -> Reading:
    """Reads all services. Work that waits for longer than `patience_seconds` is a problem."""
    situation = Facts(
        declared_facts(settings, registry), None, None, None, {}, patience_seconds=patience_seconds
    )
    reading = Reading(
        {topic.name: topic.start for topic in registry.topics.values()},
        {
            queue_name(entity.name, shard): entity.name
            for entity in registry.entities.values()
            for shard in range(entity.shards)
        },
        share=settings.share,
    )
    # Read before the log ends. In the other order, a watermark could be above its log end.
    with (
        _noted(reading, "Postgres"),
        closing(
            Session(urls.database_url, application_name="sluice status", may_be_read_only=True)
        ) as session,
    ):
        if stored := read_installation(session):
            reading.installation = stored.installation
        situation = replace(situation, postgres=read_situation(session, settings.name, situation.declared))
        reading.refusal = read_refusal(session, settings.name, settings.share)
        reading.progress = read_progress(session)
        reading.effects_paused = read_switch(session, EFFECTS_PAUSED)
        reading.parked_entities = count_parked(session)
        reading.retrying_events = count_retrying(session)
        reading.paused_topics = read_paused_topics(session)
        reading.sharing = read_workers(session)
        reading.undeclared = read_halted(session)
        reading.unread = read_unread(session, reading.paused_topics)
    with _noted(reading, "Kafka"), closing(LogReader(urls.kafka_access, settings.share)) as reader:
        topics = reading.progress.topics if reading.progress else frozenset()
        reading.logs = reader.read_ranges(sorted({*reading.declared_topics, *topics}))
        reading.oldest_at = reader.read_times(unapplied(reading))
        missing = find_missing_topics(urls.kafka_access, outgoing_topics(situation.postgres))
        situation = replace(situation, kafka=KafkaFacts({}, missing_outgoing=missing))
    with _noted(reading, "Redis"):
        situation = replace(situation, redis=read_redis_memory(urls.redis_url))
        queues = reading.progress.queues if reading.progress else {}
        if reading.installation is not None:
            prefix = reading.installation.redis_prefix
            reading.lengths = read_lengths(
                urls.redis_url, prefix, sorted({*reading.declared_queues, *queues})
            )
    reading.situation = situation
    return reading


@contextmanager
def _noted(reading: Reading, service: ServiceTitle) -> Iterator[None]:
    try:
        with reaching_services():
            yield
    except ServiceFailed as failed:
        reading.unreachable.append(str(failed))
    except Exception as error:
        # After any error of a client, the other services are shown.
        reading.unreachable.append(str(ServiceFailed(service, f"{type(error).__name__}: {error}")))
