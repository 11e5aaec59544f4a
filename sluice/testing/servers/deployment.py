"""A deployment under test. It produces events, waits until all have outcomes, and compares the
results with the oracle.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import Table

from sluice.db.admin.retrying import count_retrying
from sluice.db.admin.totals import (
    read_call_states,
    read_outgoing,
    read_positions,
    read_topic_ids,
    read_totals,
)
from sluice.db.apply.rows import RowStatements, read_all_rows
from sluice.db.connection import Session
from sluice.db.delivery.installation import read_installation
from sluice.db.tables import shape_of
from sluice.kafka_io.config import build_kafka_python_producer
from sluice.kafka_io.record_types import Record
from sluice.runtime.installation import Installation
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place
from sluice.runtime.redis_client import PrefixedRedis, build_redis
from sluice.runtime.redis_pool import open_client
from sluice.runtime.service_urls import StackUrls
from sluice.stack.patience import patient
from sluice.tasks.fold.registry import Registry
from sluice.testing.servers.local_run import LocalRun
from sluice.testing.servers.oracle import (
    Expectation,
    differences,
    expect,
    outgoing_differences,
    read_log,
    read_sent,
)

if TYPE_CHECKING:
    from kafka import KafkaProducer

POLL_SECONDS = 0.1
LogEnds: TypeAlias = Mapping[tuple[str, int], int]


class Outgoing(Protocol):
    """A record to produce: the value is an event as plain JSON, raw bytes, or None."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def value(self) -> Any: ...


class NotSettled(Exception):
    """Raised if records had no outcome at the deadline."""


@dataclass
class Deployment:
    """Handlers, services and processes of one deployment. It holds connections, so the caller must
    close it.
    """

    urls: StackUrls
    registry: Registry
    run: LocalRun
    topic_suffix: str = ""
    """The suffix that tests append to topic names, so that they can share a broker."""
    share: PartitionShare = WHOLE
    redis_admin_url: str = ""
    """The URL of the same Redis for a user who may delete all keys; by default that of the processes."""

    @cached_property
    def session(self) -> Session:
        """A session for the checks of a test."""
        return Session(self.urls.database_url, application_name="sluice check")

    @cached_property
    def installation(self) -> Installation:
        """The installation of the database; `initialise` made it."""
        stored = read_installation(self.session)
        assert stored is not None
        return stored.installation

    @cached_property
    def redis(self) -> "PrefixedRedis":
        """The Redis of the Celery broker, with the prefix of the installation."""
        return build_redis(self.urls.redis_url, self.installation.redis_prefix)

    def wipe_redis(self) -> None:
        """Deletes all keys of the Redis database, also those of other installations."""
        with open_client(self.redis_admin_url or self.urls.redis_url) as client:
            client.flushdb()

    @cached_property
    def producer(self) -> "KafkaProducer":
        """A producer that partitions by murmur2 of the key, like every Java producer."""
        # Compressed, so that a value can be produced that is over all limits except the broker's limit.
        return build_kafka_python_producer(
            self.urls.kafka_access,
            acks="all",
            linger_ms=5,
            compression_type="gzip",
            max_request_size=16 * 1024 * 1024,
        )

    def close(self) -> None:
        """Closes the connections. `LocalRun` ends the processes."""
        for name, end in (("session", "close"), ("redis", "close"), ("producer", "close")):
            if name in self.__dict__:
                getattr(self.__dict__.pop(name), end)()

    def produce(self, records: Iterable[Outgoing]) -> int:
        """Produces records and waits for the broker's acknowledgements. Returns their number."""
        futures = []
        for record in records:
            value = record.value
            if value is not None and not isinstance(value, bytes):
                value = json.dumps(value).encode()
            key = None if record.key is None else record.key.encode()
            futures.append(self.producer.send(record.topic + self.topic_suffix, key=key, value=value))
        for future in futures:
            future.get(timeout=patient(30))
        return len(futures)

    def queues(self, *entities: str) -> list[str]:
        """Returns the queues of these entity types; without names, the queues of all entity types."""
        chosen = [e for e in self.registry.entities.values() if not entities or e.name in entities]
        return [f"{entity.name}.{shard}" for entity in chosen for shard in range(entity.shards)]

    def wait_until(self, condition: Callable[[], bool], *, timeout_seconds: float, what: str) -> None:
        """Polls until the condition holds. Raises NotSettled with the ends of all logs.

        The deadline is for an idle machine; the load of this machine extends it.
        """
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > patient(timeout_seconds):
                logs = "\n".join(f"--- {p.name} ({p.exit_code})\n{p.tail()}" for p in self.run.processes)
                raise NotSettled(f"not within {timeout_seconds:.0f} s: {what}\n{logs}")
            time.sleep(POLL_SECONDS)

    def wait_settled(self, *, timeout_seconds: float = 60) -> None:
        """Waits until all watermarks are at the log's end and no event is retried. Raises NotSettled."""
        ends = self.log_ends()
        self.wait_until(
            lambda: self._is_settled(ends),
            timeout_seconds=timeout_seconds,
            what="every record has its outcome",
        )

    def is_at_rest(self, ends: LogEnds) -> bool:
        """Returns True if all records below the ends have outcomes, and no event or call is pending."""
        if not self._is_settled(ends) or read_outgoing(self.session):
            return False
        calls = self.calls()
        return not calls["pending"] and not calls["running"]

    def log_ends(self) -> LogEnds:
        """Returns (topic, partition) → the offset after the last record."""
        return {place: records[-1].offset + 1 for place, records in self._read_log().items() if records}

    def _read_log(self) -> dict[Place, list[Record]]:
        log = read_log(self.urls.kafka_access, self.registry.topics)
        return {place: records for place, records in log.items() if self.share.holds(place[1])}

    def _is_settled(self, ends: LogEnds) -> bool:
        watermarks = read_positions(self.session)
        is_read = all(watermarks.get(place, -1) >= end for place, end in ends.items())
        return is_read and count_retrying(self.session) == 0

    def expectation(self) -> Expectation:
        """Returns the state that the oracle computes from the log."""
        return expect(self.registry, self._read_log(), read_topic_ids(self.session))

    def sent(self) -> list[tuple[str, str | None, UUID]]:
        """Returns (topic, key, event id) of events that the relay published, by first appearance."""
        servers = self.urls.kafka_access
        # The second source is that of events which a test wrote in its own transaction, without a setting.
        sources = (self.run.source, self.installation.group)
        return read_sent(servers, sorted(self.registry.outgoing_topics), sources)

    def wait_sent(self, *, timeout_seconds: float = 60) -> None:
        """Waits until no outgoing event waits. Raises NotSettled."""
        self.wait_until(
            lambda: not read_outgoing(self.session),
            timeout_seconds=timeout_seconds,
            what="every outgoing event is sent",
        )

    def wait_called(self, *, timeout_seconds: float = 60) -> None:
        """Waits until no call is pending or running. Raises NotSettled."""

        def called() -> bool:
            states = self.calls()
            return not states["pending"] and not states["running"]

        self.wait_until(called, timeout_seconds=timeout_seconds, what="every call has ended")

    def calls(self, effect: str | None = None) -> Counter[str]:
        """Returns the number of calls per state, of one effect or of all."""
        counts: Counter[str] = Counter()
        for name, state, count in read_call_states(self.session):
            if effect in (None, name):
                counts[state] += count
        return counts

    def outcomes(self, topic: str | None = None) -> Counter[str]:
        """Returns the number of records per outcome, as counted in Postgres, of one topic or of all."""
        counts: Counter[str] = Counter()
        for name, outcome, count in read_totals(self.session):
            if topic is None or name == topic + self.topic_suffix:
                counts[outcome] += count
        return +counts

    def rows(self, table: Table) -> Mapping[str, Mapping[str, Any]]:
        """Returns a table's rows by key."""
        return dict(read_all_rows(self.session, RowStatements(table)))

    def complaints(self, tables: Sequence[Table]) -> list[str]:
        """Returns all differences between Postgres and the oracle: rows, outgoing events, calls, counters."""
        expectation = self.expectation()
        found = differences(self.session, expectation, tables)
        found += outgoing_differences(self.session, expectation, self.sent())
        outcomes = self.outcomes()
        if outcomes != expectation.outcomes:
            found.append(f"outcomes: expected {dict(expectation.outcomes)}, counted {dict(outcomes)}")
        if sum(outcomes.values()) != expectation.records:
            found.append(f"{expectation.records} records, {sum(outcomes.values())} outcomes")
        return found

    def tables(self) -> list[Table]:
        """Returns all tables of the handlers' modules."""
        found = [table for metadata in self.registry.metadatas for table in metadata.sorted_tables]
        return [table for table in found if shape_of(table)]
