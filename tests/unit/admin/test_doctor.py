"""A healthy installation has no findings of `sluice doctor`. Findings are JSON or lines, errors first."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from sluice.admin.doctor.facts import Facts, KafkaFacts, LeavingFacts
from sluice.admin.doctor.rules import find_problems
from sluice.cli.doctor import as_document, as_lines
from sluice.db.admin.doctor_facts import EventsWithoutId
from sluice.db.delivery.unread_partitions import UnreadKind
from tests.unit.admin.doctor_facts import (
    ERROR,
    HEALTHY,
    LIVE,
    MIB,
    POSTGRES,
    QUEUES,
    REGISTERED,
    RETIRED,
    WARNING,
    leaving,
    postgres,
    projected,
    redis,
    registered,
    server,
    shared,
    topic,
    unread,
    waiting,
)

HEALTHY_TOO: Mapping[str, Facts] = {
    "all facts are healthy": HEALTHY,
    "a bridge reports the partition without a leader": replace(
        topic(without_leader=[2]), postgres=replace(POSTGRES, unread=[unread(UnreadKind.PAUSED)])
    ),
    "no bridge has run yet": registered(topic_ids={}, partitions={}),
    "partitions were added": topic(partitions=5),
    "the topic keeps its records without limit": topic(retention_ms=-1),
    "the topic is compacted": topic(cleanup_policy="compact", retention_ms=1),
    "a newer Postgres": server(version=18),
    "Redis below its limit": redis(used_bytes=79 * MIB, max_bytes=100 * MIB),
    "Redis without a limit": redis(used_bytes=79 * MIB),
    "Redis 10": redis(version="10.0.1"),
    "commit without waiting for a standby": server(synchronous_commit="local"),
    "events without id, but no dead letters": postgres(
        leaving=LeavingFacts(), without_id=[EventsWithoutId("orders", 9, 0)]
    ),
    "a retired queue of an earlier epoch is halted": registered(
        queues=dict.fromkeys(QUEUES) | {"order.2": "halted in the earlier epoch"}
    ),
    "a worker leases one queue, and another worker consumes the other queue": shared(
        {"order.0"}, consumed=frozenset(QUEUES[1:])
    ),
    "all workers are in a batch": shared(QUEUES, workers=2),
    "a worker without leases consumes all queues": shared((), consumed=frozenset(QUEUES)),
    "no outgoing event and no call waits": leaving(),
    "a projection was swapped yesterday": projected(LIVE, RETIRED),
    "a projection is being rebuilt": projected(
        replace(LIVE, revision=1), replace(LIVE, generation=2, state="building")
    ),
    "outgoing events wait for a topic that exists": leaving(outgoing=[waiting("there", 5)]),
    "calls wait for their due time": leaving(open_calls={"send_email": 5}),
    "more columns than declared": postgres(
        columns={"orders": {"order_id", "version", "note"}, "more": {"x"}}
    ),
}


@pytest.mark.parametrize("name", HEALTHY_TOO)
def test_a_healthy_installation_has_no_findings(name: str) -> None:
    assert find_problems(HEALTHY_TOO[name]) == []


@pytest.mark.parametrize("kind", UnreadKind)
def test_each_reason_for_an_unread_partition_except_a_pause_has_advice(kind: UnreadKind) -> None:
    found = find_problems(postgres(unread=[unread(kind)]))
    assert [bool(one.advice) for one in found] == ([] if kind is UnreadKind.PAUSED else [True])


def test_errors_come_first() -> None:
    facts = replace(server(synchronous_commit="off"), kafka=KafkaFacts({}))
    assert [finding.severity for finding in find_problems(facts)] == [ERROR, WARNING]


def test_an_unreachable_service_has_exactly_one_finding() -> None:
    away = replace(HEALTHY, postgres=None, redis=None, kafka=None)
    facts = replace(away, unreachable={"Postgres": "a", "Redis": "b", "Kafka": "c"})
    assert len(find_problems(facts)) == 3


def test_the_findings_print_as_one_json_document_or_as_lines() -> None:
    facts = redis(eviction_policy="allkeys-lru")
    findings = find_problems(facts)
    document = json.loads(json.dumps(as_document(facts, findings)))
    assert [one["severity"] for one in document["findings"]] == ["error"]
    assert document["topics"]["orders"]["min_insync_replicas"] == 2
    assert as_lines(facts, findings)[0].startswith("error: Redis evicts keys")
    assert as_lines(HEALTHY, [])[-1] == "no problem found"


@pytest.mark.parametrize("by_position", [False, True])
def test_topics_that_had_events_without_id_are_shown(by_position: bool) -> None:
    facts = replace(
        postgres(
            leaving=LeavingFacts(),
            without_id=[EventsWithoutId("orders", 9, 1)],
            registered=replace(REGISTERED, dedup={"orders": "position"} if by_position else {}),
        ),
        declared=replace(HEALTHY.declared, dedup={"orders": "position"} if by_position else {}),
    )
    [finding] = find_problems(facts)
    assert ("so it needs no ids" in finding.advice) == by_position
    assert ("Let the producer set an id" in finding.advice) != by_position
    assert as_document(facts, [])["events_without_id"] == {"orders": 9}
    known = "positions" if by_position else "ids"
    assert (
        "topic orders: 9 events without id so far; Sluice identifies the events of this topic by their"
        f" {known}"
    ) in as_lines(facts, [])


def test_workers_that_do_not_answer_are_not_reported_while_redis_is_full() -> None:
    found = find_problems(redis(consumed=None, used_bytes=MIB, max_bytes=MIB))
    assert [finding.problem for finding in found] == ["Redis is full: 1 of 1 MiB."]
