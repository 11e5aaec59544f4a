"""For each problem, exactly one rule of `sluice doctor` reports a finding."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.admin import table_drift
from sluice.admin.doctor import rules, rules_projections, rules_unread, rules_waiting, rules_workers
from sluice.admin.doctor.facts import Facts, KafkaFacts, LeavingFacts
from sluice.admin.doctor.findings import Severity
from sluice.admin.doctor.rules import find_problems
from sluice.db.admin.doctor_facts import EventsWithoutId, NarrowedQueue
from sluice.db.admin.projection_letters import OpenLetterCount
from sluice.db.delivery.undeclared import Undeclared
from sluice.db.delivery.unread_partitions import UnreadKind
from sluice.db.records import Declaration
from tests.unit.admin.doctor_facts import (
    ERROR,
    FAILED,
    HEALTHY,
    LIVE,
    MIB,
    QUEUES,
    RETIRED,
    TOPIC,
    WARNING,
    declared,
    leaving,
    postgres,
    projected,
    redis,
    registered,
    server,
    shared,
    stored,
    topic,
    unread,
    waiting,
)

CASES: Mapping[str, tuple[Facts, Severity, str]] = {
    "unreachable": (replace(HEALTHY, kafka=None, unreachable={"Kafka": "refused"}), ERROR, "Kafka was not"),
    "fault injection": (declared(faults="apply.begun:1:kill"), ERROR, "apply.begun:1:kill"),
    "Postgres too old": (server(version=13), ERROR, "Postgres 13 is too old"),
    "Postgres old": (server(version=14), WARNING, "Postgres 14"),
    "fsync": (server(fsync="off"), ERROR, "fsync"),
    "full pages of identities": (
        server(max_wal_bytes=1 << 30, identity_bytes=1 << 29),
        WARNING,
        "The index of identities has 512 MiB, and max_wal_size is 1024 MiB",
    ),
    "synchronous_commit": (server(synchronous_commit="off"), WARNING, "synchronous_commit"),
    "copied database": (
        postgres(refusal="this database is a copy"),
        ERROR,
        "No process works with this database",
    ),
    "no migration": (postgres(revision=None, registered=None), ERROR, "none of Sluice's tables"),
    "other migration": (postgres(revision="0009"), ERROR, "at migration 0009, this code is at 0001"),
    "tables dropped": (postgres(registered=None), ERROR, "although all migrations"),
    "user table": (postgres(columns={}), ERROR, "Table orders is missing"),
    "column": (postgres(columns={"orders": frozenset({"order_id"})}), ERROR, "orders lacks version"),
    "not a table": (stored(kind="foreign table", is_writable=False), ERROR, "boxes is a foreign table"),
    "unlogged table": (stored(is_logged=False), ERROR, "boxes is UNLOGGED"),
    "no unique index": (stored("id"), ERROR, "no unique index on its key id"),
    "undeclared column": (stored("x"), ERROR, "Column boxes.x is not declared"),
    "entity type": (
        declared(shards={"order": 2, "user": 4}),
        ERROR,
        "user is not registered",
    ),
    "shards": (declared(shards={"order": 8}), WARNING, "8 shards in code and 2 in Postgres"),
    "dedup": (
        declared(dedup={"orders": "natural"}),
        WARNING,
        'Topic orders has dedup="natural" in code and "id" in Postgres',
    ),
    "queue row": (registered(queues={"order.0": None}), ERROR, "without a row: order.1"),
    "halted": (
        registered(queues={"order.0": None, "order.1": "no table"}),
        ERROR,
        "order.1 is halted: no table",
    ),
    "Redis too old": (redis(version="6.0.16"), ERROR, "Redis 6.0.16"),
    "eviction": (redis(eviction_policy="allkeys-lru"), ERROR, "allkeys-lru"),
    "Redis full": (redis(used_bytes=99 * MIB, max_bytes=100 * MIB), ERROR, "Redis is full: 99 of 100 MiB"),
    "Redis nearly full": (
        redis(used_bytes=80 * MIB, max_bytes=100 * MIB),
        WARNING,
        "Redis is nearly full: 80 of 100 MiB",
    ),
    "no worker": (redis(consumed=None), WARNING, "No worker answered"),
    "paused topic": (registered(paused_topics={"orders": "moving"}), WARNING, "orders is paused: moving"),
    "queue without worker": (shared({"order.0"}, consumed=frozenset()), WARNING, "No worker serves order.1."),
    "idle workers": (shared(QUEUES, workers=3), WARNING, "3 workers share 2 queues"),
    "login refused": (
        replace(HEALTHY, kafka=None, unreachable={"Kafka": "SLUICE_KAFKA_CA_FILE: none signed it"}),
        ERROR,
        "Kafka refuses the connection: SLUICE_KAFKA_CA_FILE: none signed it.",
    ),
    "certificate expired": (
        replace(HEALTHY, kafka=None, unreachable={"Kafka": "the certificate of a:1 has expired; renew it"}),
        ERROR,
        "Kafka cannot be used: the certificate of a:1 has expired; renew it.",
    ),
    "plaintext": (
        replace(HEALTHY, declared=replace(HEALTHY.declared, plaintext=["kafka:9092"])),
        WARNING,
        "not encrypted: kafka:9092",
    ),
    "no right": (
        replace(HEALTHY, kafka=KafkaFacts({"orders": TOPIC}, missing_rights={"orders": ["READ"]})),
        ERROR,
        "no right to READ on topic orders",
    ),
    "no right to the group": (
        replace(
            HEALTHY, kafka=KafkaFacts({"orders": TOPIC}, group_refusal="Kafka refuses the group; grant Read")
        ),
        ERROR,
        "refuses the group; grant Read.",
    ),
    "no topic": (replace(HEALTHY, kafka=KafkaFacts({})), ERROR, "no topic orders"),
    "a refused topic": (
        replace(HEALTHY, kafka=KafkaFacts({}, {"orders": "TopicAuthorizationFailedError"})),
        ERROR,
        "not describe topic orders: TopicAuthorizationFailedError",
    ),
    "unknown topic settings": (
        topic(retention_ms=None, cleanup_policy=None),
        WARNING,
        "does not return the settings of orders",
    ),
    "no leader": (topic(without_leader=[2]), ERROR, "without a leader: orders[2]"),
    "not read": (
        postgres(unread=[unread(UnreadKind.STOPPED, "it was re-created."), unread(UnreadKind.PAUSED)]),
        ERROR,
        "orders[2] is not read for 60 s: it was re-created.",
    ),
    "no bridge": (postgres(unread=[unread(UnreadKind.NO_BRIDGE)]), WARNING, "orders[2] is not read for 60 s"),
    "retention": (topic(retention_ms=3_600_000), WARNING, "1.0 hours"),
    "topic id": (topic(topic_id="id-2"), ERROR, "is id-2 in Kafka and id-1 in Postgres"),
    "paused": (leaving(effects_paused="provider down"), WARNING, "paused: provider down"),
    "parked": (leaving(parked_entities=5), WARNING, "Parked entities: 5"),
    "no generation": (projected(), ERROR, "Projection revenue has no generation"),
    "made by old code": (projected(LIVE, revision=3), WARNING, "is at revision 3 in code"),
    "a failed generation": (projected(LIVE, FAILED), WARNING, "Generation 2 of revenue failed: too small"),
    "dead letters of a projection": (
        postgres(projection_letters=[OpenLetterCount("revenue", 2, 5)], leaving=LeavingFacts()),
        WARNING,
        "2 events could not be applied to projection revenue, and 5 wait behind them",
    ),
    "conflicts": (leaving(conflicts=3), WARNING, "Conflicts: 3. In a conflict, two different events"),
    "unused retired generation": (
        projected(LIVE, replace(RETIRED, idle_days=9.2)),
        WARNING,
        "retired for 9 days",
    ),
    "missing outgoing topic": (
        replace(
            leaving(outgoing=[waiting("out", 3), waiting("there", 1)]),
            kafka=KafkaFacts({"orders": TOPIC}, missing_outgoing=frozenset({"out"})),
        ),
        WARNING,
        "wait for topic out, which does not exist: 3, the first is order.0 7.",
    ),
    "invalid outgoing topic name": (
        leaving(outgoing=[waiting("a b", 3)]),
        WARNING,
        "can never be sent: 3, the first is order.0 7. Kafka",
    ),
    "refused records": (leaving(refused_records=3), WARNING, "refuses: 3"),
    "uncertain calls": (leaving(uncertain_calls=2), WARNING, "which may have been made: 2"),
    "failed calls": (leaving(failed_calls=4), WARNING, "failed permanently: 4"),
    "halted topic": (
        postgres(undeclared=[Undeclared(Declaration.TOPIC, "orders", 660)]),
        ERROR,
        "Topic orders is halted: no running worker has declared it for 11 minutes",
    ),
    "undeclared effect": (
        leaving(open_calls={"send_email": 1, "send_fax": 7}),
        WARNING,
        "Effect send_fax has 7 calls",
    ),
    "events without id": (
        postgres(leaving=LeavingFacts(), without_id=[EventsWithoutId("orders", 9, 3)]),
        WARNING,
        "orders has 3 dead letters without event id; so far it had 9 events",
    ),
    "a queue with reduced batches": (
        postgres(
            leaving=LeavingFacts(),
            narrowed=[NarrowedQueue("order.1", "orders", 2, 7, 25, "QueryCanceled: too slow\nmore", 4.2)],
        ),
        WARNING,
        "order.1 failed often at orders:2:7, and applies 25 events at a time; newest failure 4 s ago:"
        " QueryCanceled: too slow.",
    ),
    "identities kept too briefly": (
        replace(
            topic(retention_ms=5 * 86_400_000, segment_ms=3 * 86_400_000),
            declared=replace(HEALTHY.declared, keep_identities_days=7),
        ),
        WARNING,
        "is 7, but topics keep records for longer (days, retention.ms and segment.ms together: orders 8)",
    ),
    "partitions": (topic(partitions=3), ERROR, "3 partitions in Kafka and 4 in Postgres"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_problem_has_exactly_one_finding(name: str) -> None:
    facts, severity, words = CASES[name]
    [finding] = find_problems(facts)
    assert finding.severity is severity
    assert words in finding.problem
    assert finding.advice.endswith(".")


def test_every_rule_has_a_case() -> None:
    modules = (rules, rules_projections, rules_unread, rules_waiting, rules_workers, table_drift)
    source = "".join(Path(str(module.__file__)).read_text() for module in modules)
    assert sum(source.count(f"yield {grade}(") for grade in ("error", "warning", "graded")) == len(CASES)
