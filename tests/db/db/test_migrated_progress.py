"""The migration of lanes and watermarks, and processes of the previous version after it."""

from collections.abc import Callable
from contextlib import closing

import pytest
from alembic import command
from sqlalchemy import Connection, text

from sluice.db.admin.queue_admin import read_queues
from sluice.db.apply import guard
from sluice.db.apply.guard import COUNTERS, LaneStep
from sluice.db.connection import BATCH_PLANS, Session, Statement
from sluice.db.delivery.progress import TopicStart, raise_watermarks, read_assignments, register_topic
from sluice.db.migrations import migrate
from sluice.db.migrations.migrate import upgrade
from sluice.runtime.settings import read_schema

LANE, PLACE = ("payment.0", 1), ("payments", 0)
WINDOW = "..x"

OLD_READ_LANES = Statement(
    "old_read_lanes",
    """
    SELECT l.topic, l.partition, l.applied_offset FROM sluice.queues q
    JOIN sluice.entities e ON e.entity = q.entity
    JOIN sluice.lane_progress l ON l.queue = q.queue AND l.epoch = e.epoch AND l.queue = $1
    WHERE q.queue = $1
    """,
    ("text",),
)
_NAMES = ", ".join(COUNTERS)
OLD_ADVANCE_LANES = Statement(
    "old_advance_lanes",
    f"""
    INSERT INTO sluice.lane_progress AS l (topic, partition, queue, epoch, applied_offset, {_NAMES})
    SELECT d.topic, d.partition, $1, $2, d.applied_offset, {_NAMES}
    FROM unnest($3, $4, $5, {", ".join(f"${6 + i}" for i in range(len(COUNTERS)))})
        AS d (topic, partition, applied_offset, {_NAMES})
    ORDER BY d.topic, d.partition
    ON CONFLICT (topic, partition, queue, epoch) DO UPDATE SET
        applied_offset = excluded.applied_offset,
        {", ".join(f"{name} = l.{name} + excluded.{name}" for name in COUNTERS)}
    """,
    ("text", "int", "text[]", "int[]", "bigint[]", *["bigint[]"] * len(COUNTERS)),
)
OLD_GIVE_LANES = Statement(
    "old_give_lanes",
    """
    INSERT INTO sluice.lane_progress (topic, partition, queue, epoch, applied_offset)
    SELECT p.topic, p.partition, e.entity || '.' || n, e.epoch, p.watermark - 1
    FROM sluice.partition_progress p
    JOIN sluice.topics t ON t.topic = p.topic
    JOIN sluice.entities e ON e.entity = t.entity AND e.epoch = p.epoch
    CROSS JOIN LATERAL generate_series(0, e.shards - 1) AS n
    WHERE p.watermark > 0
    ON CONFLICT (topic, partition, queue, epoch) DO NOTHING
    """,
)
OLD_RAISE_WATERMARKS = Statement(
    "old_raise_watermarks",
    """
    UPDATE sluice.partition_progress p SET watermark = d.watermark
    FROM unnest($1, $2, $3, $4) AS d (topic, partition, epoch, watermark)
    WHERE p.topic = d.topic AND p.partition = d.partition AND p.epoch = d.epoch AND p.watermark < d.watermark
    """,
    ("text[]", "int[]", "int[]", "bigint[]"),
)
OLD_INSERT_PARTITION = """
    INSERT INTO sluice.partition_progress (topic, partition, epoch, watermark)
    VALUES ('payments', {partition}, {epoch}, {watermark}) ON CONFLICT (topic, partition) DO NOTHING
"""
OLD_ACCEPT = """
    BEGIN;
    UPDATE sluice.entities SET epoch = 2;
    UPDATE sluice.partition_progress SET epoch = 2;
    INSERT INTO sluice.partition_progress (topic, partition, epoch, watermark) VALUES ('payments', 0, 2, 3)
    ON CONFLICT (topic, partition) DO UPDATE SET epoch = excluded.epoch, watermark = excluded.watermark;
    COMMIT
"""


def patient_session(database_url: str) -> Session:
    """Returns a session of the previous version whose transaction may wait for a migration."""
    no_limit = {"idle_in_transaction_session_timeout": "0"}
    return Session(database_url, application_name="old worker", plans=BATCH_PLANS, settings=no_limit)


def old_advance(session: Session, offset: int, applied: int) -> None:
    """Advances the lane as a worker of the previous version does."""
    counts = [[applied if name == "applied" else 0] for name in COUNTERS]
    session.run(OLD_ADVANCE_LANES, *LANE, ["payments"], [0], [offset], *counts)


@pytest.fixture
def session(database_url: str, connection: Connection, make_session: Callable[[], Session]) -> Session:
    """Returns a session on a database with rows of the previous version, at its revision."""
    connection.execute(text("DROP SCHEMA sluice CASCADE"))
    connection.execute(text("CREATE SCHEMA sluice"))
    config = migrate.build_config(read_schema())
    config.attributes["connection"] = connection
    command.upgrade(config, "0025")
    connection.execute(
        text(
            f"""
            INSERT INTO sluice.entities (entity, shards) VALUES ('payment', 2);
            INSERT INTO sluice.queues (queue, entity, failure_window)
                VALUES ('payment.0', 'payment', '{WINDOW}'), ('payment.1', 'payment', '');
            INSERT INTO sluice.topics VALUES ('payments', 'id', 'payment');
            INSERT INTO sluice.partition_progress VALUES ('payments', 0, 1, 5);
            INSERT INTO sluice.lane_progress (topic, partition, queue, epoch, applied_offset, applied, dead)
                VALUES ('payments', 0, 'payment.0', 1, 7, 6, 2)
            """
        )
    )
    connection.commit()
    return make_session()


def lanes(session: Session) -> list[tuple[object, ...]]:
    read = Statement(
        "lanes", "SELECT queue, applied_offset, applied, dead FROM sluice.lane_offsets ORDER BY 1"
    )
    return session.run(read)


def test_lanes_watermarks_and_windows_are_kept(session: Session, database_url: str) -> None:
    upgrade(database_url)
    assert lanes(session) == [("payment.0", 7, 6, 2)]
    [read] = read_assignments(session, [PLACE]).values()
    assert (read.watermark, read.partition_epoch, read.applied) == (5, 1, {"payment.0": 7})
    assert [(queue.tried, queue.deaths) for queue in read_queues(session)] == [(3, 1), (0, 0)]


def test_prepared_statements_of_the_previous_version_read_and_write_the_new_rows(
    session: Session, database_url: str
) -> None:
    with closing(Session(database_url, application_name="old worker", plans=BATCH_PLANS)) as old:
        old_advance(old, 8, 1)
        assert old.run(OLD_READ_LANES, "payment.0") == [(*PLACE, 8)]
        old.run(OLD_RAISE_WATERMARKS, ["payments"], [0], [1], [6])
        upgrade(database_url)
        assert old.run(OLD_READ_LANES, "payment.0") == [(*PLACE, 8)]
        old_advance(old, 9, 1)
        old.run(OLD_RAISE_WATERMARKS, ["payments"], [0], [1], [9])
        with session.transaction():
            guard.advance_lanes(session, "payment.0", 1, [LaneStep(*PLACE, 9, 11, {"applied": 2})])
        raise_watermarks(session, {PLACE: (1, 10)})
        assert old.run(OLD_READ_LANES, "payment.0") == [(*PLACE, 11)]
        old_advance(old, 12, 1)
        old.run(OLD_RAISE_WATERMARKS, ["payments"], [0], [1], [9])
        old.run(OLD_GIVE_LANES)
    assert lanes(session) == [("payment.0", 12, 11, 2), ("payment.1", 9, 0, 0)]
    assert read_assignments(session, [PLACE])[PLACE].watermark == 10


def test_a_transaction_of_the_previous_version_continues_over_the_migration(
    session: Session, database_url: str
) -> None:
    with closing(patient_session(database_url)) as old:
        with old.transaction():
            assert old.run(OLD_READ_LANES, "payment.0") == [(*PLACE, 7)]
            upgrade(database_url)
            old_advance(old, 8, 1)
        with old.transaction("ISOLATION LEVEL REPEATABLE READ"):
            assert old.run(OLD_READ_LANES, "payment.0") == [(*PLACE, 8)]
    assert lanes(session) == [("payment.0", 8, 7, 2)]


def test_a_snapshot_from_before_the_migration_reads_the_lanes(session: Session, database_url: str) -> None:
    with (
        closing(patient_session(database_url)) as old,
        old.transaction("ISOLATION LEVEL REPEATABLE READ"),
    ):
        old.command("SELECT 1")
        upgrade(database_url)
        assert old.run(OLD_READ_LANES, "payment.0") == [(*PLACE, 7)]
    assert lanes(session) == [("payment.0", 7, 6, 2)]


def test_a_bridge_of_the_previous_version_only_adds_missing_partitions(
    session: Session, database_url: str
) -> None:
    upgrade(database_url)
    for partition in (0, 1):
        session.command(OLD_INSERT_PARTITION.format(partition=partition, epoch=1, watermark=0))
    register_topic(session, TopicStart("payments", "id", "payment", 2, {0: 1, 1: 1, 2: 1}))
    read = read_assignments(session, [("payments", partition) for partition in (0, 1, 2)])
    assert {partition: one.watermark for (_, partition), one in read.items()} == {0: 5, 1: 0, 2: 0}


def test_accept_of_the_previous_version_restarts_a_partition(session: Session, database_url: str) -> None:
    upgrade(database_url)
    session.command(OLD_ACCEPT)
    [read] = read_assignments(session, [PLACE]).values()
    assert (read.watermark, read.partition_epoch, read.applied) == (3, 2, {})
