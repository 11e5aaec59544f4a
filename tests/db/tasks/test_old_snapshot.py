"""The queries of the relay stay fast while another session has an old snapshot."""

import os
import time
from collections.abc import Iterator
from statistics import median

import pytest

from bench.cpu import read_times
from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.records import WaitingRow
from sluice.kafka_io.record_types import Answer, Delivery, OutgoingRecord
from sluice.tasks.outbox.relay import Relay
from tests.waiting import wait_until

ROWS_PER_SECOND = 1_000
# Largest ratio of the CPU time of the last tenth of the run to the CPU time of the first tenth. The value is
# larger than 1 because a busy machine makes the measurement noisy.
MOST_GROWTH = 3.0

FILL = f"""
INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, headers, payload)
SELECT 'thing.' || n % 4, nextval('sluice.outbox_ids'), gen_random_uuid(), 't', 'k' || n, 'x', '{{}}', 'y'
FROM generate_series(1, {ROWS_PER_SECOND}) AS n
"""


class EverythingArrives:
    """A producer whose broker acknowledges every record immediately."""

    def __init__(self) -> None:
        self.answers: list[Answer[WaitingRow]] = []

    def send(self, row: WaitingRow, record: OutgoingRecord) -> None:
        self.answers.append((row, Delivery.ACKNOWLEDGED, ""))

    def poll(self, timeout_seconds: float) -> list[Answer[WaitingRow]]:
        answers, self.answers = self.answers, []
        return answers

    def close(self) -> None:
        return


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    made = Session(database_url, application_name="test", plans=QUEUE_PLANS)
    made.command(
        "INSERT INTO sluice.entities (entity, shards) VALUES ('thing', 4);"
        "INSERT INTO sluice.queues (queue, entity) SELECT 'thing.' || n, 'thing' FROM generate_series(0, 3) n"
    )
    yield made
    made.close()


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_the_cpu_time_of_the_relay_does_not_grow_under_an_old_snapshot(
    session: Session, database_url: str
) -> None:
    minutes = float(os.environ.get("SOAK_MINUTES", "10"))
    old = Session(database_url, application_name="old snapshot")
    old.command("SET idle_in_transaction_session_timeout = 0")
    old.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    writer = Session(database_url, application_name="writer")
    relay = Relay(session, EverythingArrives(), source="soak")
    backend = session.connection.get_backend_pid()
    milliseconds: list[float] = []
    cpu = [read_times()[backend].spent_ticks]
    until = time.monotonic() + 60 * minutes
    while (began := time.monotonic()) < until:
        writer.command(FILL)
        ready = time.monotonic()
        sent = 0
        while now := relay.run_once().sent:
            sent += now
        assert sent == ROWS_PER_SECOND
        milliseconds.append((time.monotonic() - ready) * 1_000)
        cpu.append(read_times()[backend].spent_ticks)
        next_at = began + 1
        wait_until(
            lambda at=next_at: time.monotonic() >= at,  # type: ignore[misc]
            timeout_seconds=2,
            what="one second has passed",
        )
    writer.close()
    old.close()
    tenth = max(1, len(milliseconds) // 10)
    early, late = cpu[tenth] - cpu[0], cpu[-1] - cpu[-1 - tenth]
    print(
        f"{len(milliseconds)} s: {ROWS_PER_SECOND} rows in {median(milliseconds[:tenth]):.0f} ms at first,"
        f" {median(milliseconds[-tenth:]):.0f} ms at the end; CPU ticks of the backend: {early} at first,"
        f" {late} at the end"
    )
    assert late <= MOST_GROWTH * early
