"""A relay on a real Postgres, and a simulated broker whose answers the test chooses."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest
import structlog

from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.records import WaitingRow
from sluice.kafka_io import record_types
from sluice.kafka_io.record_types import Delivery, OutgoingRecord
from sluice.runtime.fault_points import faults
from sluice.tasks.outbox.relay import Relay, Relayed
from tests.db.tasks.recording import RecordingSession
from tests.harness.raw_sql import cursor_of

Answer = tuple[Delivery, str] | None
ACKNOWLEDGED: Answer = (Delivery.ACKNOWLEDGED, "")
REFUSED: Answer = (Delivery.REFUSED, "too large")
AWAY: Answer = (Delivery.AWAY, "no leader")


class Broker:
    """A producer and its broker.

    `answer` computes the result for a record. Its arguments are the number and the topic of the record, and
    True if no other record is in flight.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, str | None, int]] = []
        """(topic, key, number) of each record that arrived, in order."""
        self.answer: Callable[[int, str, bool], Answer] = lambda number, topic, alone: ACKNOWLEDGED
        self.meanwhile: Callable[[], object] = lambda: None
        self.closed = 0
        self._in_flight: list[tuple[WaitingRow, OutgoingRecord]] = []

    def send(self, row: WaitingRow, record: OutgoingRecord) -> None:
        self._in_flight.append((row, record))

    def poll(self, timeout_seconds: float) -> list[record_types.Answer[WaitingRow]]:
        self.meanwhile()
        alone = len(self._in_flight) == 1
        in_flight, self._in_flight = self._in_flight, []
        answers: list[record_types.Answer[WaitingRow]] = []
        for row, record in in_flight:
            answer = self.answer(number_of(record), record.topic, alone)
            if answer is None:
                self._in_flight.append((row, record))
                continue
            if answer is ACKNOWLEDGED:
                self.log.append((record.topic, record.key, number_of(record)))
            answers.append((row, *answer))
        if self._in_flight:
            self.now += timeout_seconds
        return answers

    def close(self) -> None:
        self.closed += 1
        self._in_flight.clear()

    def numbers(self) -> list[int]:
        """Returns the numbers of the records that arrived, in order, and clears the log."""
        log, self.log = self.log, []
        return [number for _, _, number in log]


def number_of(record: OutgoingRecord) -> int:
    return UUID(str(record.headers["ce_id"])).int


class Bench:
    """A relay on a database, and queries of the rows that the relay stored."""

    def __init__(self, database_url: str) -> None:
        self.url = database_url
        self.sessions: list[Session] = []
        self.looking = self.open({})
        self.broker = Broker()
        self.relay = self.new_relay(self.broker)
        self.look("INSERT INTO sluice.entities (entity, shards) VALUES ('e', 2)")
        self.look("INSERT INTO sluice.queues (queue, entity) VALUES ('e.0', 'e'), ('e.1', 'e')")

    def open(self, plans: Mapping[str, str] = QUEUE_PLANS) -> RecordingSession:
        session = RecordingSession(self.url, application_name="test relay", plans=plans)
        session.ran = []
        self.sessions.append(session)
        return session

    def new_relay(self, broker: Broker) -> Relay:
        self.session = self.open()
        return Relay(self.session, broker, source="test", clock=lambda: broker.now)

    def add(self, *rows: tuple[int, str | None], queue: str = "e.0", topic: str = "t") -> None:
        """Adds outgoing events, each with an id (also its event id) and a key."""
        for number, key in rows:
            self.look(
                "INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, headers, payload)"
                " VALUES (%s, %s, %s, %s, %s, 'made', '{}', '{}')",
                (queue, number, str(UUID(int=number)), topic, key),
            )

    def run(self, seconds: float = 0.0) -> Relayed:
        """Advances the clock by `seconds`, and runs the relay one time."""
        self.broker.now += seconds
        return self.relay.run_once()

    def left(self) -> list[int]:
        return [number for (number,) in self.look("SELECT id FROM sluice.outbox_events ORDER BY id")]

    def look(self, query: str, values: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        with cursor_of(self.looking) as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    bench = Bench(database_url)
    with structlog.testing.capture_logs():
        yield bench
    faults.arm("")
    for session in bench.sessions:
        session.close()
