"""The CloudEvents source of an outgoing event is set when its row is written, not when it is sent."""

import pytest
from sqlalchemy import text
from sqlalchemy.pool import NullPool

from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.records import WaitingRow
from sluice.db.sending.relay import lock_waiting, read_page, read_sent_through
from sluice.kafka_io.record_types import OutgoingRecord
from sluice.runtime.settings import SettingsError
from sluice.tasks.api import Emit
from sluice.tasks.outbox.emit import emit
from sluice.tasks.outbox.outgoing_record import outgoing_record
from sluice.tasks.outbox.relay import Relay
from tests.db.tasks import applying
from tests.db.tasks.applying import Bench, slice_of, thing_set
from tests.db.tasks.relaying import Broker
from tests.harness.raw_sql import make_engine
from tests.harness.stacks import install

bench = applying.bench
ROLE = "emitting_application"


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLUICE_SOURCE", raising=False)


def emit_one(database_url: str, key: str = "k", *, role: str | None = None) -> None:
    engine = make_engine(database_url, poolclass=NullPool)
    with engine.begin() as connection:
        if role is not None:
            connection.execute(text(f"SET LOCAL ROLE {role}"))
        emit(connection, [Emit("out", key=key, type="made", data={})])


def waiting(database_url: str) -> list[WaitingRow]:
    session = Session(database_url, application_name="test relay", plans=QUEUE_PLANS)
    try:
        with session.transaction():
            hints = read_sent_through(session)
            lock_waiting(session, hints)
            return read_page(session, hints, without_topics=[], limit=100, newest_format=1)
    finally:
        session.close()


def sources(database_url: str) -> dict[str | None, str | None]:
    """Returns, for each key, the source that a relay sends. The relay itself has another source."""
    return {
        row.key: str(outgoing_record(row, "the relay's").headers["ce_source"])
        for row in waiting(database_url)
    }


def test_the_default_source_of_a_user_transaction_is_the_installation(database_url: str) -> None:
    installation = install(database_url, "shop-eu")
    emit_one(database_url)
    assert installation.group.startswith("shop-eu-")
    assert sources(database_url) == {"k": installation.group}


def test_a_role_that_may_only_emit_has_the_same_default_source(database_url: str) -> None:
    installation = install(database_url)
    with make_engine(database_url, poolclass=NullPool).begin() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {ROLE}"))
        connection.execute(text(f"CREATE ROLE {ROLE}"))
        for right in ("INSERT ON sluice.outbox_events", "SELECT, INSERT ON sluice.relay_progress"):
            connection.execute(text(f"GRANT {right} TO {ROLE}"))
        connection.execute(text(f"GRANT USAGE ON SEQUENCE sluice.outbox_ids TO {ROLE}"))
    emit_one(database_url, role=ROLE)
    assert sources(database_url) == {"k": installation.group}
    with make_engine(database_url, poolclass=NullPool).begin() as connection:
        connection.execute(text(f"DROP OWNED BY {ROLE}"))
        connection.execute(text(f"DROP ROLE {ROLE}"))


def test_a_batch_stores_the_source(bench: Bench, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = install(database_url)
    bench.apply(slice_of([thing_set(0, "a")]))
    monkeypatch.setenv("SLUICE_SOURCE", "https://shop.example/orders")
    bench.apply(slice_of([thing_set(1, "b")], prev=0))
    assert sources(database_url) == {"a": installation.group, "b": "https://shop.example/orders"}


def test_a_change_of_the_setting_does_not_change_waiting_rows(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(database_url)
    sent = {}
    for source in ("first", "second"):
        monkeypatch.setenv("SLUICE_SOURCE", source)
        emit_one(database_url, key=source)

    class Keeping(Broker):
        def send(self, row: WaitingRow, record: OutgoingRecord) -> None:
            sent[row.key] = record.headers["ce_source"]
            super().send(row, record)

    session = Session(database_url, application_name="test relay", plans=QUEUE_PLANS)
    Relay(session, Keeping(), source="third").run_once()
    session.close()
    assert sent == {"first": "first", "second": "second"}


def test_a_row_of_an_earlier_version_gets_the_source_of_the_relay(database_url: str) -> None:
    install(database_url)
    emit_one(database_url)
    with make_engine(database_url, poolclass=NullPool).begin() as connection:
        connection.execute(text("UPDATE sluice.outbox_events SET source = NULL"))
    assert sources(database_url) == {"k": "the relay's"}


def test_a_source_that_is_too_long_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_SOURCE", "x" * 256)
    with pytest.raises(SettingsError, match="SLUICE_SOURCE: it has 256 characters; use at most 255"):
        emit_one(database_url)
