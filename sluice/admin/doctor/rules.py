"""The rules of `sluice doctor`: they find what is wrong with an installation, and what to do. Pure."""

from collections.abc import Iterator, Mapping

from sluice.admin.doctor.facts import DeclaredFacts, Facts, KafkaFacts, PostgresFacts, TopicFacts
from sluice.admin.doctor.findings import Finding, error, graded, warning, worst_first
from sluice.admin.doctor.rules_installation import clock_problems, installation_problems
from sluice.admin.doctor.rules_late import age_problems, death_problems, holding_problems
from sluice.admin.doctor.rules_processes import process_problems, still_problems
from sluice.admin.doctor.rules_projections import feeding_problems, projection_problems
from sluice.admin.doctor.rules_retrying import retrying_problems
from sluice.admin.doctor.rules_server import server_problems
from sluice.admin.doctor.rules_share import divided_problems, share_problems
from sluice.admin.doctor.rules_unread import kafka_problems, unread_problems
from sluice.admin.doctor.rules_waiting import (
    leaving_problems,
    missing_id_problems,
    narrowed_problems,
    retention_problems,
    stopped_problems,
    unsendable_problems,
)
from sluice.admin.doctor.rules_workers import idle_workers, redis_problems, used_queues, worker_problems
from sluice.admin.service_errors import SETTING_OF
from sluice.admin.table_drift import drift_findings, missing_findings
from sluice.db.admin.doctor_facts import Registered
from sluice.db.records import Declaration
from sluice.kafka_io.login_check import EXPIRED
from sluice.runtime.terminal_text import counted
from sluice.tasks.apply.topic_modes import FORMER_POSITION, effective_mode
from sluice.tasks.events.routing import queue_name

OLDEST_POSTGRES = 14  # the first with idle_session_timeout, by which a stopped worker loses its queues
TESTED_POSTGRES = 15  # the oldest that the tests run on
SHORTEST_RETENTION_MS = 24 * 60 * 60 * 1000  # an outage over a night must not outlast the log


def find_problems(facts: Facts) -> list[Finding]:
    """Returns the findings of all rules, errors first. For a service that was not reached, that is
    the only finding.
    """
    found = [
        *_unreachable(facts),
        *_environment(facts.declared),
        *share_problems(facts.declared),
        *installation_problems(facts),
    ]
    if facts.postgres is not None:
        found += _server(facts.postgres)
        found += _installation(facts.postgres, facts.declared)
        found += _migrations(facts.postgres, facts.declared)
        unfilled, tables = facts.declared.unfilled, facts.declared.tables
        found += missing_findings(
            facts.declared.columns,
            facts.postgres.columns,
            facts.postgres.misplaced,
            unfilled,
            tables,
            facts.postgres.tables,
            facts.declared.schema,
        )
        found += drift_findings(tables, facts.postgres.tables, unfilled)
        if facts.postgres.registered is not None:
            found += _registered(facts.postgres.registered, facts.declared)
            found += idle_workers(facts.postgres.registered, facts.postgres.sharing)
            found += _undeclared(facts.postgres, facts.declared)
            found += unread_problems(facts.postgres.unread, facts.declared)
            found += retrying_problems(facts.postgres.retrying)
        if facts.postgres.leaving is not None:
            found += stopped_problems(facts.postgres.leaving)
            found += projection_problems(facts.postgres.generations, facts.declared)
            found += feeding_problems(facts)
            found += still_problems(facts.postgres.generations, facts.still)
            found += missing_id_problems(facts.postgres.without_id, facts.declared)
            found += narrowed_problems(facts.postgres.narrowed)
    found += situation_problems(facts)
    if facts.redis is not None:
        found += worker_problems(facts)
    if facts.kafka is not None:
        found += _topics(facts.kafka, facts.declared)
        found += divided_problems(facts.kafka, facts.declared)
        found += kafka_problems(facts.kafka, facts.postgres, facts.declared)
        found += retention_problems(facts.kafka.topics, facts.declared)
        if facts.postgres is not None and facts.postgres.registered is not None:
            found += _log(facts.kafka.topics, facts.postgres.registered, facts.declared)
    return worst_first(found)


def situation_problems(facts: Facts) -> Iterator[Finding]:
    """Yields the current problems of the servers and processes. `sluice status` also shows these problems."""
    if facts.postgres is not None:
        yield from server_problems(facts.postgres, patience_seconds=facts.patience_seconds)
        yield from process_problems(facts.postgres, facts.declared)
        missing = facts.kafka.missing_outgoing if facts.kafka else frozenset()
        yield from age_problems(facts.postgres, missing, patience_seconds=facts.patience_seconds)
        if facts.postgres.leaving is not None:
            yield from leaving_problems(facts.postgres.leaving, facts.declared)
            yield from holding_problems(facts.postgres.leaving)
            if facts.kafka is not None:
                yield from unsendable_problems(facts.postgres.leaving, facts.kafka)
        if facts.postgres.working is not None:
            yield from death_problems(facts.postgres.working.deaths)
        yield from clock_problems(facts.postgres)
    if facts.redis is not None:
        yield from redis_problems(facts.redis)


def _unreachable(facts: Facts) -> Iterator[Finding]:
    for service, reason in facts.unreachable.items():
        if reason.startswith("SLUICE_"):
            yield error(f"{service} refuses the connection: {reason}.", "Correct this setting.")
        elif reason.startswith(EXPIRED):
            yield error(f"{service} cannot be used: {reason}.", "Renew the certificate.")
        else:
            yield error(
                f"{service} was not reached: {reason}.",
                f"Start {service}, or correct {SETTING_OF[service]}.",
            )


def _environment(declared: DeclaredFacts) -> Iterator[Finding]:
    if declared.faults:
        yield error(
            f"SLUICE_FAULTS arms faults: {declared.faults}.",
            "Unset SLUICE_FAULTS and SLUICE_ALLOW_FAULTS, and restart the processes: armed faults kill"
            " processes.",
        )
    if declared.plaintext:
        yield warning(
            f"The connections to Kafka are not encrypted: {', '.join(declared.plaintext)}.",
            "Set SLUICE_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL; see docs/kafka-access.md.",
        )


def _server(postgres: PostgresFacts) -> Iterator[Finding]:
    server = postgres.server
    if server.version < OLDEST_POSTGRES:
        yield error(f"Postgres {server.version} is too old.", f"Use {TESTED_POSTGRES} or newer.")
    elif server.version < TESTED_POSTGRES:
        yield warning(
            f"Postgres {server.version} is older than any version that Sluice is tested with.",
            f"Plan to move to {TESTED_POSTGRES} or newer.",
        )
    if server.fsync == "off":
        yield error(
            "Postgres runs with fsync off: a crash can destroy the data.",
            "Set fsync = on and restart Postgres.",
        )
    if server.synchronous_commit == "off":
        yield warning(
            "Postgres runs with synchronous_commit off: a crash can undo commits, but not the events and"
            " calls that followed them.",
            "Set synchronous_commit = on for this database.",
        )


def _installation(postgres: PostgresFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    # If migrations are missing, the next rule gives the advice.
    if postgres.refusal is not None and postgres.revision == declared.newest_revision:
        yield error(
            f"No process works with this database: {postgres.refusal}.",
            "Follow the instruction in this sentence, or correct SLUICE_DATABASE_URL.",
        )


def _migrations(postgres: PostgresFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    if postgres.revision is None:
        yield error(
            f"Schema {declared.schema} of the database has none of Sluice's tables.",
            "Run `sluice init`, or correct SLUICE_SCHEMA.",
        )
    elif postgres.revision != declared.newest_revision:
        yield error(
            f"The database is at migration {postgres.revision}, this code is at {declared.newest_revision}.",
            "Run `sluice init`; if the database is newer, deploy the code that migrated it.",
        )
    elif postgres.registered is None:
        yield error(
            "Tables of Sluice are missing although all migrations were applied.",
            f"Restore the database from a backup: schema {declared.schema} was changed by hand.",
        )


def _registered(registered: Registered, declared: DeclaredFacts) -> Iterator[Finding]:
    for entity, shards in sorted(declared.shards.items()):
        if entity not in registered.shards:
            yield error(f"Entity type {entity} is not registered.", "Run `sluice init`.")
        elif shards != registered.shards[entity]:
            yield warning(
                f"Entity type {entity} has {counted(shards, 'shard')} in code and"
                f" {registered.shards[entity]} in Postgres; the number in Postgres is used.",
                f"Declare shards={registered.shards[entity]}: the number in code is used only for a new"
                " type.",
            )
    for entity, shards in sorted(registered.shards.items()):
        names = [queue_name(entity, shard) for shard in range(shards)]
        if missing := [name for name in names if name not in registered.queues]:
            is_ours = entity in declared.shards
            yield graded(is_ours, f"Queues without a row: {', '.join(missing)}.", "Run `sluice init`.")
    used = used_queues(registered)
    for queue, reason in sorted(registered.queues.items()):
        if reason is not None and queue in used:
            yield graded(
                queue.rpartition(".")[0] in declared.shards,
                f"Queue {queue} is halted: {reason}",
                "Correct the deployment; the queue is retried every few seconds and then continues.",
            )
    for topic, mode in sorted(declared.dedup.items()):
        counts = effective_mode(mode, registered.dedup.get(topic))
        if counts == FORMER_POSITION and topic in registered.topic_ids:
            yield warning(
                f'Topic {topic} with dedup="position" was registered by an earlier version, so identities of'
                " its records are stored.",
                f'After all processes were upgraded, run `sluice dedup {topic} position --reason "…"`.',
            )
        elif topic in registered.topic_ids and counts != mode:
            yield warning(
                f'Topic {topic} has dedup="{mode}" in code and "{counts}" in Postgres; the mode in Postgres'
                " is used.",
                f'Declare dedup="{counts}", or run `sluice dedup {topic} {mode} --reason "…"`.',
            )
    for topic, why in sorted(registered.paused_topics.items()):
        yield warning(
            f"Topic {topic} is paused: {why}",
            f'Run `sluice resume --topic {topic} --reason "…"` to read it again. A killed reshard also'
            " leaves a topic paused.",
        )


def _undeclared(postgres: PostgresFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    for one in postgres.undeclared:
        names = declared.topics if one.kind is Declaration.TOPIC else declared.effects
        yield graded(one.name in names, one.problem, one.advice)


def missing_topic(name: str) -> str:
    """Returns the sentence about a declared topic that does not exist."""
    return f"Kafka has no topic {name}."


def _topics(kafka: KafkaFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    for missing in sorted(declared.topics - kafka.topics.keys() - kafka.refused.keys()):
        yield error(missing_topic(missing), "Run `sluice init`, or check the address of the cluster.")
    for name, topic in sorted(kafka.topics.items()):
        if topic.cleanup_policy is None or topic.retention_ms is None:
            continue
        if "delete" in topic.cleanup_policy and 0 <= topic.retention_ms < SHORTEST_RETENTION_MS:
            yield warning(
                f"Topic {name} keeps records for {topic.retention_ms / 3_600_000:.1f} hours: a longer outage"
                " loses records that are not applied yet.",
                "Raise retention.ms of the topic above a day, and above the age of your oldest backup.",
            )


def _log(
    kafka: Mapping[str, TopicFacts], registered: Registered, declared: DeclaredFacts
) -> Iterator[Finding]:
    for name, topic in sorted(kafka.items()):
        known = registered.topic_ids.get(name)
        if known is not None and known != topic.topic_id:
            yield graded(
                name in declared.topics,
                f"Topic {name} is not the topic that was read so far: its id is {topic.topic_id} in Kafka and"
                f" {known} in Postgres.",
                "Check if the topic was created again or if this is another cluster; the topic is not"
                " read until"
                f' `sluice accept {name} --reason "…"`.',
            )
        own = len(declared.share.numbers(topic.partitions))
        if own < registered.partitions.get(name, 0):
            yield graded(
                name in declared.topics,
                f"Topic {name} has {counted(own, 'partition')} in Kafka and"
                f" {registered.partitions[name]} in Postgres.",
                "Check the address of the cluster: a topic cannot lose partitions.",
            )
