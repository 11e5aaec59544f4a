"""Migrations while processes of the previous version continue to write."""

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from alembic import command
from sqlalchemy import Connection, text

from sluice.db.connection import Session, Statement
from sluice.db.migrations import migrate
from sluice.db.migrations.migrate import (
    current_revision,
    newest_revision,
    upgrade,
)
from sluice.runtime.settings import read_schema
from sluice.stack.patience import patient
from tests.harness.raw_sql import cursor_of
from tests.waiting import wait_until

OLD_EVENT = Statement(
    "old_event",
    """
    INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, version, headers, payload)
    SELECT 'order.0', nextval('sluice.outbox_ids'), gen_random_uuid(), 't', 'k', 'made', NULL, '{}', '{}'
    """,
)
OLD_CALL = Statement(
    "old_call",
    """
    INSERT INTO sluice.executed_side_effects
        (entity, effect_key, effect, identity, entity_key, args, fingerprint, explicit_once)
    SELECT 'order', gen_random_uuid()::text, 'notify', gen_random_uuid(), 'k', '{}', gen_random_uuid(), false
    """,
)
OLD_LETTER = Statement(
    "old_letter",
    """
    INSERT INTO sluice.dead_letters
        (topic, topic_id, partition, "offset", timestamp_ms, headers, queue, entity, identity, outcome,
         error_class, error_text)
    SELECT 't', 'id', 0, nextval('sluice.outbox_ids'), 0, '[]', 'order.0', 'order', gen_random_uuid(), 'dead',
           'E', 'e'
    """,
)
READ_CALLS = Statement("old_read", "SELECT count(*) FROM sluice.executed_side_effects")
WRITTEN = {OLD_EVENT: "outbox_events", OLD_CALL: "executed_side_effects", OLD_LETTER: "dead_letters"}


@pytest.fixture
def at_first_revision(database_url: str, connection: Connection) -> str:
    """Returns a database at the first revision of the migrations, with rows of the previous version."""
    connection.execute(text("DROP SCHEMA sluice CASCADE"))
    connection.execute(text("CREATE SCHEMA sluice"))
    config = migrate.build_config(read_schema())
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")
    connection.commit()
    with closing(Session(database_url, application_name="test old")) as session:
        for statement in WRITTEN:
            session.run(statement)
    return database_url


def counted(session: Session) -> dict[str, int]:
    with cursor_of(session) as cursor:
        found = {}
        for table in WRITTEN.values():
            cursor.execute(f"SELECT count(*) FROM sluice.{table}")
            [(found[table],)] = cursor.fetchall()
        return found


def test_processes_of_the_previous_version_write_during_a_migration(at_first_revision: str) -> None:
    """One process locks the tables in the order of a batch, the other process in the order of a redrive."""
    stopping, written = threading.Event(), Counter[str]()

    def write(order: Sequence[Statement]) -> int:
        transactions = 0
        with closing(Session(at_first_revision, application_name="test old")) as session:
            while not stopping.is_set():
                with session.transaction():
                    for statement in order:
                        session.run(statement)
                transactions += 1
                written[str(order[0].name)] = transactions
        return transactions

    orders = ([READ_CALLS, OLD_EVENT, OLD_CALL, OLD_LETTER], [OLD_LETTER, READ_CALLS, OLD_EVENT, OLD_CALL])
    with ThreadPoolExecutor(len(orders)) as pool:
        writers = [pool.submit(write, order) for order in orders]
        try:
            wait_until(lambda: len(written) == len(orders), timeout_seconds=10, what="both processes write")
            upgrade(at_first_revision)
            before = dict(written)
            wait_until(
                lambda: (
                    any(w.done() for w in writers) or all(written[name] > before[name] for name in before)
                ),
                timeout_seconds=10,
                what="both processes write after the migration",
            )
        finally:
            stopping.set()
        transactions = sum(writer.result(timeout=patient(30)) for writer in writers)
    assert current_revision(at_first_revision) == newest_revision()
    with closing(Session(at_first_revision, application_name="test old")) as session:
        assert counted(session) == dict.fromkeys(WRITTEN.values(), transactions + 1)


def test_a_migration_waits_for_a_transaction_and_never_deadlocks_with_it(at_first_revision: str) -> None:
    with (
        closing(Session(at_first_revision, application_name="test old")) as session,
        closing(Session(at_first_revision, application_name="test reader")) as looking,
        ThreadPoolExecutor(1) as pool,
    ):
        with session.transaction():
            session.run(READ_CALLS)
            migration = pool.submit(upgrade, at_first_revision)
            wait_until(
                lambda: looking.run(MIGRATION_WAITS) == [(True,)],
                timeout_seconds=10,
                what="the migration waits for the table of calls",
            )
            session.run(OLD_EVENT)
            session.run(OLD_CALL)
        migration.result(timeout=patient(60))
        assert counted(session) == {"outbox_events": 2, "executed_side_effects": 2, "dead_letters": 1}
    assert current_revision(at_first_revision) == newest_revision()


MIGRATION_WAITS = Statement(
    "migration_waits",
    """
    SELECT EXISTS (
        SELECT FROM pg_stat_activity WHERE application_name = 'sluice migrate' AND wait_event_type = 'Lock'
          AND datname = current_database()
    )
    """,
)


def test_a_migration_stores_the_checkpoint_of_each_generation(at_first_revision: str) -> None:
    with closing(Session(at_first_revision, application_name="test old")) as session:
        session.command("""
            INSERT INTO sluice.projections VALUES ('p', 1, 3);
            INSERT INTO sluice.generations (projection, generation, state, revision)
                SELECT 'p', n, 'ready', 1 FROM generate_series(1, 3) AS n;
            INSERT INTO sluice.audit (actor, verb, subject, reason, details) VALUES
                ('a', 'rebuild start', 'p', 'why', '{"generation": 2, "from": null}'),
                ('a', 'rebuild start', 'p', 'why', '{"generation": 3, "from": "easter"}'),
                ('a', 'rebuild swap', 'p', 'why', '{"generation": 1, "from": 2}')""")
    upgrade(at_first_revision)
    with closing(Session(at_first_revision, application_name="test reader")) as session:
        found = session.run(
            Statement("read_checkpoints", "SELECT generation, checkpoint FROM sluice.generations ORDER BY 1")
        )
    assert found == [(1, None), (2, None), (3, "easter")]
