"""`sluice doctor`: what is wrong with an installation, and what to do. Pure."""

from collections.abc import Iterator, Mapping

from sluice.admin.doctor.facts import (
    DeclaredFacts,
    Facts,
    Finding,
    KafkaFacts,
    PostgresFacts,
    RedisFacts,
    Severity,
    SharingFacts,
    TopicFacts,
    error,
    warning,
)
from sluice.admin.doctor.rules_installation import installation_problems
from sluice.admin.doctor.rules_projections import projection_problems, stopped_problems
from sluice.admin.doctor.rules_retrying import retrying_problems
from sluice.admin.doctor.rules_unread import kafka_problems, unread_problems
from sluice.admin.doctor.rules_waiting import (
    leaving_problems,
    missing_id_problems,
    narrowed_problems,
    retention_problems,
    unsendable_problems,
)
from sluice.admin.service_errors import SETTING_OF
from sluice.admin.table_drift import drift_findings, missing_findings
from sluice.db.admin.doctor_facts import Registered
from sluice.tasks.events.routing import queue_name

OLDEST_POSTGRES = 14  # knows idle_session_timeout, with which a stopped worker loses its queues
TESTED_POSTGRES = 15  # the oldest that the tests run on
MIB = 1024 * 1024
# Of maxmemory. A message needs room beside what is stored: Redis refuses commands a little before the limit.
REDIS_NEARLY_FULL, REDIS_FULL = 0.8, 0.95
OLDEST_REDIS = (6, 2)  # of those Celery's transport is tested with here
SHORTEST_RETENTION_MS = 24 * 60 * 60 * 1000  # an outage over a night must not outlast the log


def find_problems(facts: Facts) -> list[Finding]:
    """Every rule's findings, errors first. Of a service that was not reached nothing else is said."""
    found = [*_unreachable(facts), *_environment(facts.declared), *installation_problems(facts)]
    if facts.postgres is not None:
        found += _server(facts.postgres)
        found += _installation(facts.postgres, facts.declared)
        found += _migrations(facts.postgres, facts.declared)
        found += missing_findings(facts.declared.columns, facts.postgres.columns, facts.postgres.misplaced)
        found += drift_findings(facts.declared.tables, facts.postgres.tables)
        if facts.postgres.registered is not None:
            found += _registered(facts.postgres.registered, facts.declared)
            found += _idle_workers(facts.postgres.registered, facts.postgres.sharing)
            found += _undeclared(facts.postgres)
            found += unread_problems(facts.postgres.unread)
            found += retrying_problems(facts.postgres.retrying)
        if facts.postgres.leaving is not None:
            found += leaving_problems(facts.postgres.leaving, facts.declared)
            found += projection_problems(facts.postgres.generations, facts.declared)
            found += stopped_problems(facts)
            found += missing_id_problems(facts.postgres.without_id, facts.declared)
            found += narrowed_problems(facts.postgres.narrowed)
    if facts.redis is not None:
        found += _redis(facts.redis)
        found += _workers(facts)
    if facts.kafka is not None:
        found += _topics(facts.kafka, facts.declared)
        found += kafka_problems(facts.kafka, facts.postgres)
        found += retention_problems(facts.kafka.topics, facts.declared)
        if facts.postgres is not None and facts.postgres.leaving is not None:
            found += unsendable_problems(facts.postgres.leaving, facts.kafka)
        if facts.postgres is not None and facts.postgres.registered is not None:
            found += _log(facts.kafka.topics, facts.postgres.registered)
    return sorted(found, key=lambda finding: finding.severity is Severity.WARNING)


def _unreachable(facts: Facts) -> Iterator[Finding]:
    for service, reason in facts.unreachable.items():
        if service == "Postgres" and "read-only" in reason:
            yield error(
                f"Postgres can only be read: {reason}.",
                "Let SLUICE_DATABASE_URL name the primary, with writes allowed.",
            )
        else:
            yield error(
                f"{service} was not reached: {reason}.",
                f"Start it, or correct {SETTING_OF[service]}.",
            )


def _environment(declared: DeclaredFacts) -> Iterator[Finding]:
    if declared.faults:
        yield error(
            f"SLUICE_FAULTS arms faults: {declared.faults}.",
            "Unset it and SLUICE_ALLOW_FAULTS, and restart the processes: faults kill them on purpose.",
        )


def _server(postgres: PostgresFacts) -> Iterator[Finding]:
    server = postgres.server
    if server.version < OLDEST_POSTGRES:
        yield error(f"Postgres {server.version} is too old.", f"Use {TESTED_POSTGRES} or newer.")
    elif server.version < TESTED_POSTGRES:
        yield warning(
            f"Postgres {server.version} is older than any that Sluice is tested with.",
            f"Plan to move to {TESTED_POSTGRES} or newer.",
        )
    if server.fsync == "off":
        yield error(
            "Postgres runs with fsync off: a crash can destroy the only truth.",
            "Set fsync = on and restart it.",
        )
    if server.synchronous_commit == "off":
        yield warning(
            "Postgres runs with synchronous_commit off: a crash can take back commits, but not the events"
            " and calls that followed them.",
            "Set synchronous_commit = on for this database.",
        )


def _installation(postgres: PostgresFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    # Without all migrations the advice is that of the next rule.
    if postgres.refusal is not None and postgres.revision == declared.newest_revision:
        yield error(
            f"No process works with this database: {postgres.refusal}.",
            "Do what the sentence names, or correct SLUICE_DATABASE_URL.",
        )


def _migrations(postgres: PostgresFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    if postgres.revision is None:
        yield error("The database has none of Sluice's tables.", "Run `sluice init`.")
    elif postgres.revision != declared.newest_revision:
        yield error(
            f"The database is at migration {postgres.revision}, this code is at {declared.newest_revision}.",
            "Run `sluice init`; if the database is the newer one, deploy the code that made it.",
        )
    elif postgres.registered is None:
        yield error(
            "Tables of Sluice are missing although all migrations were applied.",
            "Restore the database from a backup: somebody changed schema sluice by hand.",
        )


def _registered(registered: Registered, declared: DeclaredFacts) -> Iterator[Finding]:
    for entity, shards in sorted(declared.shards.items()):
        if entity not in registered.shards:
            yield error(f"Entity type {entity} is not registered.", "Run `sluice init`.")
        elif shards != registered.shards[entity]:
            yield warning(
                f"Entity type {entity} has {shards} shards in code and {registered.shards[entity]} in"
                " Postgres, which count.",
                f"Declare shards={registered.shards[entity]}: the code's number counts at first sight only.",
            )
    for entity, shards in sorted(registered.shards.items()):
        names = [queue_name(entity, shard) for shard in range(shards)]
        if missing := [name for name in names if name not in registered.queues]:
            yield error(f"Queues without a row: {', '.join(missing)}.", "Run `sluice init`.")
    used = _used_queues(registered)
    for queue, reason in sorted(registered.queues.items()):
        if reason is not None and queue in used:
            yield error(
                f"Queue {queue} is halted: {reason}",
                "Correct the deployment; the queue is tried again every few seconds and then goes on.",
            )
    for topic, why in sorted(registered.paused_topics.items()):
        yield warning(
            f"Topic {topic} is paused: {why}",
            "Nothing of it is read until `sluice resume --topic`; a reshard that was killed leaves one so.",
        )


def _used_queues(registered: Registered) -> frozenset[str]:
    """Those that records go to. A re-routing to fewer shards leaves rows behind, for their counters."""
    return frozenset(
        queue_name(entity, shard) for entity, shards in registered.shards.items() for shard in range(shards)
    )


def _redis(redis: RedisFacts) -> Iterator[Finding]:
    numbers = tuple(int(part) for part in redis.version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_REDIS:
        yield error(f"Redis {redis.version} is too old.", "Use 6.2 or newer.")
    if redis.eviction_policy != "noeviction":
        yield error(
            f"Redis evicts keys: its maxmemory-policy is {redis.eviction_policy}.",
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration.",
        )
    memory = f"{redis.used_bytes // MIB} of {redis.max_bytes // MIB} MiB"
    advice = (
        "Find what fills it, with `sluice redis ls`; free memory or raise maxmemory. While it is full,"
        " bridge, relay and beat wait, and workers apply what is there."
    )
    if _is_full(redis):
        yield error(f"Redis is full: {memory}.", advice)
    elif redis.max_bytes and redis.used_bytes >= REDIS_NEARLY_FULL * redis.max_bytes:
        yield warning(f"Redis is nearly full: {memory}.", advice)


def _is_full(redis: RedisFacts) -> bool:
    return bool(redis.max_bytes) and redis.used_bytes >= REDIS_FULL * redis.max_bytes


def _workers(facts: Facts) -> Iterator[Finding]:
    registered = facts.postgres.registered if facts.postgres else None
    if facts.postgres is None or facts.redis is None or registered is None:
        return
    if facts.postgres.refusal is not None or _is_full(facts.redis):
        return  # No worker starts, or none can answer.
    sharing = facts.postgres.sharing
    used = registered.queues.keys() & _used_queues(registered)
    # A worker in a batch does not answer, and a queue in hand-over is consumed by nobody for a moment.
    lonely = sorted(used - sharing.leased - (facts.redis.consumed or frozenset()))
    if facts.redis.consumed is None and not sharing.leased:
        yield warning(
            "No worker answered.",
            "Start one without -Q, or ask again: one with -Q in a long batch is silent.",
        )
    elif lonely:
        yield warning(
            f"No worker holds {', '.join(lonely)}, or said that it consumes them.",
            "Start a worker without -Q: it takes what nobody holds. One with -Q in a long batch is silent.",
        )


def _undeclared(postgres: PostgresFacts) -> Iterator[Finding]:
    for one in postgres.undeclared:
        yield error(one.problem, one.advice)


def _idle_workers(registered: Registered, sharing: SharingFacts) -> Iterator[Finding]:
    queues = len(registered.queues.keys() & _used_queues(registered))
    if sharing.workers > max(1, queues):
        yield warning(
            f"{sharing.workers} workers share {queues} queues: some of them are idle.",
            "Stop some, or let an entity type have more queues by `sluice reshard`.",
        )


def _topics(kafka: KafkaFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    for missing in sorted(declared.topics - kafka.topics.keys() - kafka.refused.keys()):
        yield error(f"Kafka has no topic {missing}.", "Run `sluice init`, or look at the cluster's address.")
    for name, topic in sorted(kafka.topics.items()):
        if topic.cleanup_policy is None or topic.retention_ms is None:
            continue
        if "delete" in topic.cleanup_policy and 0 <= topic.retention_ms < SHORTEST_RETENTION_MS:
            yield warning(
                f"Topic {name} keeps records for {topic.retention_ms / 3_600_000:.1f} hours: after a longer"
                " outage some are gone before they were applied.",
                "Raise its retention.ms above a day, and above the age of your oldest backup.",
            )


def _log(kafka: Mapping[str, TopicFacts], registered: Registered) -> Iterator[Finding]:
    for name, topic in sorted(kafka.items()):
        known = registered.topic_ids.get(name)
        if known is not None and known != topic.topic_id:
            yield error(
                f"Topic {name} is not the one that was read so far: its id in Kafka is {topic.topic_id}, in"
                f" Postgres {known}.",
                "Find out whether it was created again or this is another cluster; it is not read until"
                f' `sluice accept {name} --reason "…"`.',
            )
        if topic.partitions < registered.partitions.get(name, 0):
            yield error(
                f"Topic {name} has {topic.partitions} partitions in Kafka and"
                f" {registered.partitions[name]} in Postgres.",
                "Look at the cluster's address: a topic cannot lose partitions.",
            )
