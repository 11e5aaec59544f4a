"""The bench's check of a drain accepts the right result, and finds each wrong one."""

from collections.abc import Iterator

import pytest
from psycopg2.errors import CheckViolation

from bench.app import TOPIC
from bench.commits import verify
from bench.contenders import HANDWRITTEN
from bench.events import BLOCK, BenchEvent, Expected, Kind, generate_events
from bench.peers.batch import Statements, write_batch
from bench.peers.event import decode_event
from bench.peers.handwritten import SCHEMA
from bench.peers.schema import create_tables
from bench.streams import MIXED
from sluice.db.connection import BATCH_PLANS, Session

BATCH = 250


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    create_tables(database_url, SCHEMA)
    made = Session(database_url, application_name="test", plans=BATCH_PLANS)
    yield made
    made.close()


def drained(session: Session, events: list[BenchEvent]) -> list[str]:
    """Writes the events as by hand. Returns the complaints."""
    expected, statements = Expected(), Statements(SCHEMA)
    decoded = [
        decode_event(TOPIC, 0, event.number, event.key.encode(), event.value)
        for event in expected.watch(events)
    ]
    for first in range(0, len(decoded), BATCH):
        write_batch(session, statements, decoded[first : first + BATCH])
    return verify(session, HANDWRITTEN.layout, expected)


def test_by_hand_drains_a_mixed_stream_correctly(session: Session) -> None:
    assert drained(session, list(MIXED.events(2 * BLOCK, seed=1, with_poison=False))) == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE {0}.rows SET version = version - 1 WHERE key = (SELECT min(key) FROM {0}.rows)", "rows"),
        ("DELETE FROM {0}.rows WHERE key = (SELECT min(key) FROM {0}.rows)", "rows"),
        ('DELETE FROM {0}.processed_events WHERE "offset" = 7', "identities"),
        ("DELETE FROM {0}.outbox_events WHERE id = 7", "outgoing events"),
        (
            "INSERT INTO {0}.outbox_events (event_id, topic, key, type, headers, payload)"
            " SELECT event_id, topic, key, type, headers, payload FROM {0}.outbox_events WHERE id = 7",
            "outgoing events",
        ),
    ],
)
def test_each_wrong_result_is_found(session: Session, damage: str, complaint: str) -> None:
    events = list(MIXED.events(BLOCK, seed=1, with_poison=False))
    assert drained(session, events) == []
    session.command(damage.format(SCHEMA))
    expected = Expected()
    list(expected.watch(events))
    [found] = verify(session, HANDWRITTEN.layout, expected)
    assert complaint in found


@pytest.mark.parametrize(("kind", "error"), [(Kind.REJECTED, ValueError), (Kind.VIOLATING, CheckViolation)])
def test_each_kind_of_poison_stops_by_hand(session: Session, kind: Kind, error: type[Exception]) -> None:
    with pytest.raises(error):
        drained(session, list(generate_events(3, seed=1, kinds=[Kind.NEW, kind, Kind.NEW])))
