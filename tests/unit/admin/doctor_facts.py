"""Facts of a healthy installation for the tests of `sluice doctor`, and functions that change these facts."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import Column, MetaData, String

from sluice.admin.doctor.facts import (
    DeclaredFacts,
    Facts,
    GenerationFacts,
    KafkaFacts,
    LeavingFacts,
    PostgresFacts,
    RedisFacts,
    SharingFacts,
    TopicFacts,
)
from sluice.admin.doctor.findings import Severity
from sluice.db.admin.doctor_facts import Registered, ServerSettings
from sluice.db.admin.stored_tables import StoredColumn, StoredTable
from sluice.db.admin.waiting_facts import WaitingTopic
from sluice.db.delivery.unread_partitions import UnreadKind, UnreadPartition
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
    """Returns facts with a declared table `boxes` (key `id`) and the object of that name in Postgres."""
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
