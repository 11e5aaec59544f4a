"""The SQL of deploy/debezium on a real Postgres: a connector receives all events, the relay reads none."""

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from sluice.db.apply.outgoing import insert_outbox
from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.records import OutboxRow
from sluice.db.sending.relay import read_sent_through
from sluice.stack import Stack
from tests.db.admin.leaving import rows

pytestmark = pytest.mark.own("postgres")

FOLDER = Path(__file__).parents[3] / "deploy/debezium"
NAMES = ("watch_slot", "create_publication", "create_trigger", "drop_all")
WATCH, PUBLISH, FORGET, BACK = ((FOLDER / f"{name}.sql").read_text() for name in NAMES)
# Debezium reads the changes as messages of the plugin `pgoutput`. The first byte of a message is the kind of
# the message.
CHANGES = """
    SELECT data FROM pg_logical_slot_get_binary_changes(
        'sluice_outbox', NULL, NULL, 'proto_version', '1', 'publication_names', 'sluice_outbox')
"""


@pytest.fixture
def session(postgres: Stack, database_url: str) -> Iterator[Session]:
    """Yields a session on a separate server with `wal_level = logical`."""
    opened = Session(database_url, application_name="test", plans=BATCH_PLANS)
    opened.command("ALTER SYSTEM SET wal_level = logical")
    opened.close()
    postgres.stop("postgres")
    postgres.start("postgres")
    yield opened
    opened.command("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    opened.close()


def emitted(key: str, payload: str) -> OutboxRow:
    return OutboxRow(uuid4(), "out", key, "made", None, "{}", payload)


def inserts(session: Session) -> list[bytes]:
    """Returns, in order, the rows that were inserted since the last call, as a connector reads them."""
    return [data for data in (bytes(row[0]) for row in rows(session, CHANGES)) if data[:1] == b"I"]


def test_a_connector_receives_every_committed_event_in_order_and_the_relay_reads_none(
    session: Session,
) -> None:
    session.command(PUBLISH)
    session.command("SELECT pg_create_logical_replication_slot('sluice_outbox', 'pgoutput')")
    session.command(FORGET)
    for number in range(3):
        with session.transaction():
            insert_outbox(session, "order.0", [emitted("k", f'"{number}-{n}"') for n in range(2)], None)
    session.command("BEGIN")
    insert_outbox(session, "order.0", [emitted("k", '"never"')], None)
    session.roll_back()
    assert rows(session, "SELECT * FROM sluice.outbox_events") == []
    assert read_sent_through(session) == {}
    # `pgoutput` writes bytea values in hex.
    found = [re.findall(r"\\x([0-9a-f]+)", data.decode("latin-1"))[0] for data in inserts(session)]
    assert [bytes.fromhex(payload).decode() for payload in found] == [
        f'"{number}-{n}"' for number in range(3) for n in range(2)
    ]
    [(slot, active, status, _)] = rows(session, WATCH)
    assert (slot, active, status) == ("sluice_outbox", False, "reserved")

    session.command(BACK)
    with session.transaction():
        insert_outbox(session, "order.0", [emitted("k", "1")], None)
    assert rows(session, "SELECT count(*) FROM sluice.outbox_events") == [(1,)]
