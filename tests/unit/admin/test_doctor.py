"""The rules of `sluice doctor`: each one fires alone, and none on a healthy installation."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String

from sluice.admin import table_drift
from sluice.admin.doctor import rules, rules_projections, rules_unread, rules_waiting, rules_workers
from sluice.admin.doctor.facts import (
    DeclaredFacts,
    Facts,
    GenerationFacts,
    KafkaFacts,
    LeavingFacts,
    PostgresFacts,
    RedisFacts,
    Severity,
    SharingFacts,
    TopicFacts,
)
from sluice.admin.doctor.rules import find_problems
from sluice.cli.doctor import as_document, as_lines
from sluice.db.admin.doctor_facts import EventsWithoutId, NarrowedQueue, Registered, ServerSettings
from sluice.db.admin.projection_letters import OpenLetterCount
from sluice.db.admin.stored_tables import StoredColumn, StoredTable
from sluice.db.admin.waiting_facts import WaitingTopic
from sluice.db.delivery.undeclared import Undeclared
from sluice.db.delivery.unread_partitions import UnreadKind, UnreadPartition
from sluice.db.records import Declaration
from sluice.db.tables import entity_table

QUEUES = ("order.0", "order.1")
TOPIC = TopicFacts("id-1", 4, 3, 2, "delete", 604_800_000, 604_800_000)
REGISTERED = Registered({"order": 2}, dict.fromkeys(QUEUES), {"orders": "id-1"}, {"orders": 4})
POSTGRES = PostgresFacts(
    ServerSettings(16, "on", "on"), "0001", {"orders": frozenset({"order_id", "version"})}, REGISTERED
)
HEALTHY = Facts(
    DeclaredFacts(
        frozenset({"orders"}), {"order": 2}, {"orders": frozenset({"order_id", "version"})}, "", "0001"
    ),
    POSTGRES,
    RedisFacts("7.2.4", "noeviction", frozenset(QUEUES)),
    KafkaFacts({"orders": TOPIC}),
    {},
)
LIVE = GenerationFacts("revenue", 1, "live", 2, None, 100.0)
FAILED = GenerationFacts("revenue", 2, "failed", 2, "too small", 0.1)
RETIRED = GenerationFacts("revenue", 2, "retired", 1, None, 1.0)
MIB = 1024 * 1024
ERROR, WARNING = Severity.ERROR, Severity.WARNING


def declared(**changed: Any) -> Facts:
    return replace(HEALTHY, declared=replace(HEALTHY.declared, **changed))


def postgres(**changed: Any) -> Facts:
    return replace(HEALTHY, postgres=replace(POSTGRES, **changed))


def server(**changed: Any) -> Facts:
    return postgres(server=replace(POSTGRES.server, **changed))


def registered(**changed: Any) -> Facts:
    return postgres(registered=replace(REGISTERED, **changed))


def leaving(**changed: Any) -> Facts:
    return replace(
        postgres(leaving=LeavingFacts(**changed)),
        declared=replace(HEALTHY.declared, effects=frozenset({"send_email"})),
    )


def projected(*generations: GenerationFacts, revision: int = 2) -> Facts:
    return replace(
        postgres(leaving=LeavingFacts(), generations=generations),
        declared=replace(HEALTHY.declared, revisions={"revenue": revision}),
    )


def stored(*columns: str, **changed: Any) -> Facts:
    """A declared table `boxes` with a key `id`, and what holds its rows in Postgres."""
    table = entity_table("boxes", MetaData(), Column("id", String, primary_key=True))
    text = StoredColumn("text", -1, "text", not_null=True)
    facts = StoredTable("boxes", columns=dict.fromkeys(columns, text), **changed)
    return replace(postgres(tables={"boxes": facts}), declared=replace(HEALTHY.declared, tables=[table]))


def redis(**changed: Any) -> Facts:
    assert HEALTHY.redis is not None
    return replace(HEALTHY, redis=replace(HEALTHY.redis, **changed))


def topic(**changed: Any) -> Facts:
    return replace(HEALTHY, kafka=KafkaFacts({"orders": replace(TOPIC, **changed)}))


def waiting(topic: str, events: int) -> WaitingTopic:
    return WaitingTopic(topic, events, "order.0", 7, events, 1.0)


def unread(kind: UnreadKind, reason: str = "why") -> UnreadPartition:
    return UnreadPartition("orders", 2, kind, reason, 60.0)


def shared(leased: Iterable[str], *, workers: int = 1, consumed: frozenset[str] | None = None) -> Facts:
    facts = SharingFacts(workers, frozenset(leased))
    return replace(redis(consumed=consumed), postgres=replace(POSTGRES, sharing=facts))


CASES: Mapping[str, tuple[Facts, Severity, str]] = {
    "unreachable": (replace(HEALTHY, kafka=None, unreachable={"Kafka": "refused"}), ERROR, "Kafka was not"),
    "faults": (declared(faults="apply.begun:1:kill"), ERROR, "apply.begun:1:kill"),
    "Postgres too old": (server(version=13), ERROR, "Postgres 13 is too old"),
    "Postgres old": (server(version=14), WARNING, "Postgres 14"),
    "fsync": (server(fsync="off"), ERROR, "fsync"),
    "synchronous_commit": (server(synchronous_commit="off"), WARNING, "synchronous_commit"),
    "copied": (postgres(refusal="this database is a copy"), ERROR, "No process works with this database"),
    "no migration": (postgres(revision=None, registered=None), ERROR, "none of Sluice's tables"),
    "other migration": (postgres(revision="0009"), ERROR, "at migration 0009, this code is at 0001"),
    "tables dropped": (postgres(registered=None), ERROR, "although all migrations"),
    "user table": (postgres(columns={}), ERROR, "Table orders is missing"),
    "column": (postgres(columns={"orders": frozenset({"order_id"})}), ERROR, "orders lacks version"),
    "no table": (stored(kind="foreign table", is_writable=False), ERROR, "boxes is a foreign table"),
    "unlogged": (stored(is_logged=False), ERROR, "boxes is UNLOGGED"),
    "no key": (stored("id"), ERROR, "no unique index on its key id"),
    "undeclared column": (stored("x"), ERROR, "Column boxes.x is not declared"),
    "entity type": (
        declared(shards={"order": 2, "user": 4}),
        ERROR,
        "user is not registered",
    ),
    "shards": (declared(shards={"order": 8}), WARNING, "8 shards in code and 2 in Postgres"),
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
    "lonely queue": (shared({"order.0"}, consumed=frozenset()), WARNING, "No worker holds order.1, or"),
    "idle workers": (shared(QUEUES, workers=3), WARNING, "3 workers share 2 queues"),
    "no topic": (replace(HEALTHY, kafka=KafkaFacts({})), ERROR, "no topic orders"),
    "a refused topic": (
        replace(HEALTHY, kafka=KafkaFacts({}, {"orders": "TopicAuthorizationFailedError"})),
        ERROR,
        "no facts of topic orders: TopicAuthorizationFailedError",
    ),
    "settings not given": (
        topic(retention_ms=None, cleanup_policy=None),
        WARNING,
        "does not give the settings of orders",
    ),
    "no leader": (topic(without_leader=[2]), ERROR, "without a leader: orders[2]"),
    "not read": (
        postgres(unread=[unread(UnreadKind.STOPPED, "it was re-created."), unread(UnreadKind.PAUSED)]),
        ERROR,
        "orders[2] is not read for 60 s: it was re-created.",
    ),
    "no bridge": (postgres(unread=[unread(UnreadKind.NO_BRIDGE)]), WARNING, "orders[2] is not read for 60 s"),
    "retention": (topic(retention_ms=3_600_000), WARNING, "1.0 hours"),
    "topic id": (topic(topic_id="id-2"), ERROR, "in Kafka is id-2, in Postgres id-1"),
    "paused": (leaving(effects_paused="provider down"), WARNING, "paused: provider down"),
    "parked": (leaving(parked_entities=5), WARNING, "Parked entities: 5"),
    "no generation": (projected(), ERROR, "Projection revenue has no generation"),
    "made by old code": (projected(LIVE, revision=3), WARNING, "is at revision 3 in code"),
    "a failed generation": (projected(LIVE, FAILED), WARNING, "Generation 2 of revenue failed: too small"),
    "letters of a projection": (
        postgres(projection_letters=[OpenLetterCount("revenue", 2, 5)], leaving=LeavingFacts()),
        WARNING,
        "Projection revenue could not take 2 events, and 5 wait behind them",
    ),
    "conflicts": (leaving(conflicts=3), WARNING, "Conflicts: 3; of two events with one id"),
    "kept for nobody": (projected(LIVE, replace(RETIRED, idle_days=9.2)), WARNING, "retired for 9 days"),
    "outgoing, no topic": (
        replace(
            leaving(outgoing=[waiting("out", 3), waiting("there", 1)]),
            kafka=KafkaFacts({"orders": TOPIC}, missing_outgoing=frozenset({"out"})),
        ),
        WARNING,
        "wait for topic out, which does not exist: 3, the first is order.0 7.",
    ),
    "outgoing, no name": (
        leaving(outgoing=[waiting("a b", 3)]),
        WARNING,
        "can never be sent: 3, the first is order.0 7. Kafka",
    ),
    "refused": (leaving(refused_records=3), WARNING, "refuses: 3"),
    "uncertain": (leaving(uncertain_calls=2), WARNING, "nobody knows whether they were made: 2"),
    "failed": (leaving(failed_calls=4), WARNING, "failed for good: 4"),
    "halted topic": (
        postgres(undeclared=[Undeclared(Declaration.TOPIC, "orders", 660)]),
        ERROR,
        "Topic orders is halted: no living worker has declared it for 11 minutes",
    ),
    "undeclared effect": (
        leaving(open_calls={"send_email": 1, "send_fax": 7}),
        WARNING,
        "Effect send_fax has 7 calls",
    ),
    "no event ids": (
        postgres(leaving=LeavingFacts(), without_id=[EventsWithoutId("orders", 9, 3)]),
        WARNING,
        "orders has 3 dead letters without event id, of 9 such events",
    ),
    "a queue that goes in small steps": (
        postgres(
            leaving=LeavingFacts(),
            narrowed=[NarrowedQueue("order.1", "orders", 2, 7, 25, "QueryCanceled: too slow\nmore", 4.2)],
        ),
        WARNING,
        "order.1 failed often at orders:2:7, and applies 25 events at a time; newest failure 4 s ago:"
        " QueryCanceled: too slow.",
    ),
    "identities": (
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
def test_each_rule_fires_alone(name: str) -> None:
    facts, severity, words = CASES[name]
    [finding] = find_problems(facts)
    assert finding.severity is severity
    assert words in finding.problem
    assert finding.advice.endswith(".")


def test_every_rule_has_its_case() -> None:
    modules = (rules, rules_projections, rules_unread, rules_waiting, rules_workers, table_drift)
    source = "".join(Path(str(module.__file__)).read_text() for module in modules)
    assert sum(source.count(f"yield {grade}(") for grade in ("error", "warning", "graded")) == len(CASES)


HEALTHY_TOO: Mapping[str, Facts] = {
    "as it should be": HEALTHY,
    "a bridge reports the partition without a leader": replace(
        topic(without_leader=[2]), postgres=replace(POSTGRES, unread=[unread(UnreadKind.PAUSED)])
    ),
    "no bridge has run yet": registered(topic_ids={}, partitions={}),
    "partitions were added": topic(partitions=5),
    "kept for ever": topic(retention_ms=-1),
    "compacted": topic(cleanup_policy="compact", retention_ms=1),
    "a newer Postgres": server(version=18),
    "Redis below its limit": redis(used_bytes=79 * MIB, max_bytes=100 * MIB),
    "Redis without a limit": redis(used_bytes=79 * MIB),
    "Redis 10": redis(version="10.0.1"),
    "commit without waiting for a standby": server(synchronous_commit="local"),
    "events without id, and no letter of them": postgres(
        leaving=LeavingFacts(), without_id=[EventsWithoutId("orders", 9, 0)]
    ),
    "queues that a re-routing left behind": registered(
        queues=dict.fromkeys(QUEUES) | {"order.2": "halted before it"}
    ),
    "one worker holds a queue, the other was told the other": shared(
        {"order.0"}, consumed=frozenset(QUEUES[1:])
    ),
    "all workers are in a batch": shared(QUEUES, workers=2),
    "a worker beside those that share": shared((), consumed=frozenset(QUEUES)),
    "everything left": leaving(),
    "swapped yesterday": projected(LIVE, RETIRED),
    "being rebuilt": projected(replace(LIVE, revision=1), replace(LIVE, generation=2, state="building")),
    "outgoing events wait for a topic that exists": leaving(outgoing=[waiting("there", 5)]),
    "a call waits for its time": leaving(open_calls={"send_email": 5}),
    "more columns than declared": postgres(
        columns={"orders": {"order_id", "version", "note"}, "more": {"x"}}
    ),
}


@pytest.mark.parametrize("name", HEALTHY_TOO)
def test_a_healthy_installation_has_no_findings(name: str) -> None:
    assert find_problems(HEALTHY_TOO[name]) == []


@pytest.mark.parametrize("kind", UnreadKind)
def test_every_reason_why_a_partition_is_not_read_has_its_advice(kind: UnreadKind) -> None:
    found = find_problems(postgres(unread=[unread(kind)]))
    assert [bool(one.advice) for one in found] == ([] if kind is UnreadKind.PAUSED else [True])


def test_errors_come_first() -> None:
    facts = replace(server(synchronous_commit="off"), kafka=KafkaFacts({}))
    assert [finding.severity for finding in find_problems(facts)] == [ERROR, WARNING]


def test_of_services_that_are_away_nothing_else_is_said() -> None:
    away = replace(HEALTHY, postgres=None, redis=None, kafka=None)
    facts = replace(away, unreachable={"Postgres": "a", "Redis": "b", "Kafka": "c"})
    assert len(find_problems(facts)) == 3


def test_it_is_one_json_document_and_lines_for_people() -> None:
    facts = CASES["eviction"][0]
    findings = find_problems(facts)
    document = json.loads(json.dumps(as_document(facts, findings)))
    assert [one["severity"] for one in document["findings"]] == ["error"]
    assert document["topics"]["orders"]["min_insync_replicas"] == 2
    assert as_lines(facts, findings)[0].startswith("error: Redis evicts keys")
    assert as_lines(HEALTHY, [])[-1] == "no problem found"


@pytest.mark.parametrize("by_position", [False, True])
def test_topics_that_had_events_without_id_are_shown(by_position: bool) -> None:
    facts = replace(
        postgres(leaving=LeavingFacts(), without_id=[EventsWithoutId("orders", 9, 1)]),
        declared=replace(HEALTHY.declared, by_position={"orders"} if by_position else set()),
    )
    [finding] = find_problems(facts)
    assert ("Every event of it counts now" in finding.advice) == by_position
    assert ("Have the producer set an id" in finding.advice) != by_position
    assert as_document(facts, [])["events_without_id"] == {"orders": 9}
    known = "positions" if by_position else "ids"
    assert f"topic orders: 9 events without id so far; events are known by their {known}" in as_lines(
        facts, []
    )


def test_silent_workers_are_no_finding_while_redis_is_full() -> None:
    found = find_problems(redis(consumed=None, used_bytes=MIB, max_bytes=MIB))
    assert [finding.problem for finding in found] == ["Redis is full: 1 of 1 MiB."]
