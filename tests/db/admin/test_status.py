"""Queries of `status` and `doctor`, on real Postgres."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy.engine import make_url

from examples.shop.tables import metadata as shop_metadata
from sluice.admin.service_errors import ServiceFailed, reaching_services
from sluice.db.admin.doctor_facts import (
    Registered,
    ServerSettings,
    read_registered,
    read_server,
    read_user_columns,
)
from sluice.db.admin.totals import QueueState, read_progress
from sluice.db.apply.guard import COUNTERS
from sluice.db.connection import Session, Statement
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.migrations.migrate import create_user_tables
from sluice.db.tables import is_projection

HALTED_AT = "2026-01-02 03:04:05+00"


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    opened = Session(database_url, application_name="test")
    yield opened
    opened.close()


def _insert_lane(session: Session, partition: int, queue: str, epoch: int, **counts: int) -> None:
    names, values = ", ".join(counts), ", ".join(map(str, counts.values()))
    session.command(
        f"INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset, {names})"
        f" VALUES ('payments', {partition}, '{queue}', {epoch}, 0, {values})"
    )


def test_counters_are_summed_over_partitions_and_epochs(session: Session) -> None:
    register_topic(session, TopicStart("payments", "id-1", "payment", 2, {0: 10, 1: 20}))
    _insert_lane(session, 0, "payment.0", 1, applied=5, call_conflict=1)
    _insert_lane(session, 1, "payment.0", 1, applied=7, dead=2)
    _insert_lane(session, 0, "payment.0", 2, applied=100)
    _insert_lane(session, 0, "payment.1", 2, ignored=3)
    session.command(
        f"UPDATE sluice.queues SET halted_reason = 'why', halted_at = '{HALTED_AT}' WHERE queue = 'payment.1'"
    )
    read = read_progress(session)
    nothing = dict.fromkeys(COUNTERS, 0)
    assert read.counters == {
        ("payments", "payment.0"): nothing | {"applied": 112, "dead": 2, "call_conflict": 1},
        ("payments", "payment.1"): nothing | {"ignored": 3},
    }
    assert read.topics == {"payments"}
    assert read.watermarks == {("payments", 0): 10, ("payments", 1): 20}
    assert read.queues == {
        "payment.0": QueueState("payment"),
        "payment.1": QueueState("payment", "why", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    }


def test_registered_topics_and_queues_are_read(session: Session) -> None:
    assert read_registered(session) == Registered({}, {}, {}, {})
    register_topic(session, TopicStart("payments", "id-1", "payment", 2, {0: 0, 1: 0, 2: 0}))
    session.command("UPDATE sluice.queues SET halted_reason = 'why' WHERE queue = 'payment.1'")
    assert read_registered(session) == Registered(
        {"payment": 2},
        {"payment.0": None, "payment.1": "why"},
        {"payments": "id-1"},
        {"payments": 3},
        dedup={"payments": "id"},
    )


def test_dropped_columns_of_user_tables_are_not_read(session: Session, database_url: str) -> None:
    create_user_tables(database_url, [shop_metadata])
    tables = [table for table in shop_metadata.sorted_tables if not is_projection(table)]
    declared = {t.name: frozenset(c.name for c in t.columns) for t in tables}
    assert read_user_columns(session) == declared
    session.command("ALTER TABLE orders DROP COLUMN version")
    session.command("ALTER TABLE users RENAME TO people")
    read = read_user_columns(session)
    assert read["orders"] == declared["orders"] - {"version"}
    assert "users" not in read


def test_the_server_settings_of_this_database_are_read(session: Session, database_url: str) -> None:
    found = read_server(session)
    [(fsync,)] = session.run(Statement("show_fsync", "SELECT current_setting('fsync')"))
    version = session.connection.server_version // 10_000
    assert found == ServerSettings(version, fsync, "on", "", found.max_wal_bytes, found.identity_bytes)
    assert found.max_wal_bytes > found.identity_bytes > 0
    session.command(f'ALTER DATABASE "{make_url(database_url).database}" SET synchronous_commit = off')
    session.close()
    assert read_server(session).synchronous_commit == "off"


def test_a_read_only_server_is_recognised(session: Session, database_url: str) -> None:
    session.command(
        f'ALTER DATABASE "{make_url(database_url).database}" SET default_transaction_read_only = on'
    )
    session.close()
    # `doctor` recognises a read-only server by these words.
    with pytest.raises(ServiceFailed, match="read-only"), reaching_services():
        read_server(session)


def test_the_error_for_a_database_without_sluice_tables_names_init(session: Session) -> None:
    session.command("DROP SCHEMA sluice CASCADE")
    with pytest.raises(ServiceFailed, match="sluice init"), reaching_services():
        read_progress(session)
