"""The oracle: applies the log in memory with the pure code of the workers, and compares the result
with Postgres.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from kafka import TopicPartition
from sqlalchemy import Table

from sluice.db.admin.totals import read_effect_keys, read_outgoing
from sluice.db.apply.rows import RowStatements, read_all_rows
from sluice.db.connection import Session
from sluice.kafka_io.bounded_record import record_of_consumed
from sluice.kafka_io.config import build_kafka_python_consumer
from sluice.kafka_io.record_types import Record
from sluice.runtime.kafka_access import KafkaAccess
from sluice.tasks.fold.registry import Registry
from sluice.tasks.fold.versioned_row import Row
from sluice.testing.folded_log import FoldedLog

POLL_MS = 500


@dataclass
class Expectation:
    """The expected state when every record has its outcome."""

    rows: Mapping[tuple[Table, str], Row]
    outcomes: Counter[str]
    records: int
    folded: FoldedLog = field(repr=False)

    def tables(self) -> set[Table]:
        """Tables to which any event wrote."""
        return {table for table, _ in self.rows}


def read_log(access: KafkaAccess, topics: Iterable[str]) -> dict[tuple[str, int], list[Record]]:
    """Reads all committed records of the topics, per (topic, partition), in offset order."""
    consumer = build_kafka_python_consumer(
        access,
        group_id=None,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        enable_auto_commit=False,
    )
    try:
        partitions = [
            TopicPartition(topic, number)
            for topic in topics
            for number in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        if not partitions:
            return {}
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        log: dict[tuple[str, int], list[Record]] = {(p.topic, p.partition): [] for p in partitions}
        while any(consumer.position(p) < ends[p] for p in partitions):
            for partition, records in consumer.poll(timeout_ms=POLL_MS).items():
                log[partition.topic, partition.partition] += [
                    record_of_consumed(record, None) for record in records
                ]
        return log
    finally:
        consumer.close()


def expect(
    registry: Registry, log: Mapping[tuple[str, int], Sequence[Record]], topic_ids: Mapping[str, str]
) -> Expectation:
    """Applies the log in memory. The order between partitions does not matter, because no entity
    is in two partitions.
    """
    folded = FoldedLog(registry)
    for (name, number), records in sorted(log.items(), key=lambda pair: _by_entity(registry, pair[0])):
        for record in records:
            folded.take(name, topic_ids[name], number, record)
    outcomes = Counter(entry.outcome.value for entry in folded.entries)
    return Expectation(folded.rows, outcomes, sum(map(len, log.values())), folded)


def _by_entity(registry: Registry, place: tuple[str, int]) -> tuple[str, str, int]:
    return (registry.topics[place[0]].entity.name, *place)


def differences(session: Session, expectation: Expectation, tables: Iterable[Table]) -> list[str]:
    """Returns the differences between the users' tables and the oracle; an empty list if there are none."""
    found: list[str] = []
    for table in tables:
        actual = dict(read_all_rows(session, RowStatements(table)))
        wanted = {
            key: dict(row.values) for (of, key), row in expectation.rows.items() if of is table and row.values
        }
        found += [_difference(table, key, wanted, actual) for key in sorted(wanted.keys() ^ actual.keys())]
        found += [
            _difference(table, key, wanted, actual)
            for key in sorted(wanted.keys() & actual.keys())
            if wanted[key] != actual[key]
        ]
    return found


def read_sent(
    access: KafkaAccess, topics: Iterable[str], sources: Collection[str]
) -> list[tuple[str, str | None, UUID]]:
    """Returns (topic, key, event id) of all events of these sources, in order of first appearance."""
    found: dict[UUID, tuple[str, str | None, UUID]] = {}
    for (topic, _), records in read_log(access, topics).items():
        for record in records:
            headers = dict(record.headers)
            if (headers.get("ce_source") or b"").decode() in sources:
                event_id = UUID((headers["ce_id"] or b"").decode())
                key = None if record.key is None else record.key.decode()
                found.setdefault(event_id, (topic, key, event_id))
    return list(found.values())


def outgoing_differences(
    session: Session, expectation: Expectation, sent: Iterable[tuple[str, str | None, UUID]]
) -> list[str]:
    """Returns outgoing events, in order per (topic, key), and calls that are missing, extra or out of order.

    An event counts at its first appearance: in Kafka, or as a row that waits behind sent events.
    """
    wanted: defaultdict[tuple[str, str | None], list[UUID]] = defaultdict(list)
    for emit in expectation.folded.emits:
        wanted[emit.topic, emit.key].append(emit.event_id)
    found: defaultdict[tuple[str, str | None], dict[UUID, None]] = defaultdict(dict)
    for topic, key, event_id in [*sent, *read_outgoing(session)]:
        found[topic, key].setdefault(event_id)
    places = sorted(wanted.keys() | found.keys(), key=str)
    complaints = [
        f"outgoing {topic} {key}: expected {len(wanted[topic, key])} events, found"
        f" {len(found[topic, key])} events, or different events, or another order"
        for topic, key in places
        if wanted[topic, key] != list(found[topic, key])
    ]
    calls = {call.effect_key for call in expectation.folded.calls}
    return complaints + [
        f"call {key}: exists only in Postgres or only in the oracle"
        for key in sorted(calls ^ read_effect_keys(session))
    ]


def _difference(table: Table, key: str, wanted: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    return f"{table.name} {key}: expected {wanted.get(key)}, found {actual.get(key)}"
