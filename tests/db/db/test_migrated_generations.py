"""The migration of the lanes of generations, and processes of the previous version after it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from threading import Thread

import pytest
from alembic import command
from sqlalchemy import Connection, text

from sluice.db.connection import BATCH_PLANS, Session, Statement
from sluice.db.migrations import migrate
from sluice.db.migrations.migrate import upgrade
from sluice.db.projections import generation_lanes
from sluice.db.projections.generation_lanes import GenerationStep, keep_places, lock_lanes, read_passed
from sluice.runtime.settings import read_schema
from sluice.stack.patience import patient
from tests.db.db.test_migrated_progress import patient_session
from tests.waiting import wait_until

QUEUE, PLACE = "payment.0", ("payments", 0)
RETIRED, STOPPED = ("totals", 1), ("totals", 3)

OLD_ADVANCE = Statement(
    "old_advance_generation",
    """
    INSERT INTO sluice.generation_lanes AS l
        (projection, generation, queue, topic, partition, applied_offset, filled_xid, folded)
    SELECT $1, $2, $3, d.topic, d.partition, d.applied_offset,
        CASE WHEN $7 THEN pg_current_xact_id()::text::bigint END, d.folded
    FROM unnest($4, $5, $6, $8) AS d (topic, partition, applied_offset, folded)
    ON CONFLICT (projection, generation, topic, partition, queue) DO UPDATE SET
        applied_offset = excluded.applied_offset,
        filled_xid = coalesce(excluded.filled_xid, l.filled_xid), folded = l.folded + excluded.folded
    """,
    ("text", "int", "text", "text[]", "int[]", "bigint[]", "boolean", "bigint[]"),
)
OLD_MAKE = Statement(
    "old_make_generation_lanes",
    """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT g.projection, g.generation, d.topic, d.partition, $3, -1
    FROM unnest($4, $5) AS d (topic, partition)
    JOIN sluice.generations g ON g.projection = $1 AND g.generation = $2
    ON CONFLICT DO NOTHING
    """,
    ("text", "int", "text", "text[]", "int[]"),
)
OLD_LOCK = Statement(
    "old_lock_generation_lanes",
    """
    SELECT l.topic, l.partition, l.applied_offset FROM sluice.generation_lanes l
    WHERE l.projection = $1 AND l.generation = $2 AND l.queue = $3
      AND l.topic = ANY ($4) AND l.partition = ANY ($5)
    ORDER BY l.topic, l.partition FOR UPDATE
    """,
    ("text", "int", "text", "text[]", "int[]"),
)
_OLD_LIVE_PLACES = """
    INSERT INTO sluice.generation_lanes (projection, generation, topic, partition, queue, applied_offset)
    SELECT $1, $2, l.topic, l.partition, l.queue, l.applied_offset FROM sluice.lane_offsets l
    ON CONFLICT (projection, generation, topic, partition, queue)
"""
OLD_KEEP_LIVE_PLACES = Statement("old_keep_places", f"{_OLD_LIVE_PLACES} DO NOTHING", ("text", "int"))
OLD_FOLLOW_LIVE = Statement(
    "old_follow_live",
    f"{_OLD_LIVE_PLACES} DO UPDATE SET applied_offset = excluded.applied_offset",
    ("text", "int"),
)
READ_LANES = Statement(
    "read_lanes",
    "SELECT generation, queue, applied_offset, folded FROM sluice.generation_offsets ORDER BY 1, 2",
)


@pytest.fixture
def session(database_url: str, connection: Connection, make_session: Callable[[], Session]) -> Session:
    """Returns a session on a database with rows of the previous version, at its revision."""
    connection.execute(text("DROP SCHEMA sluice CASCADE"))
    connection.execute(text("CREATE SCHEMA sluice"))
    config = migrate.build_config(read_schema())
    config.attributes["connection"] = connection
    command.upgrade(config, "0030")
    connection.execute(
        text(
            """
            INSERT INTO sluice.entities (entity, shards) VALUES ('payment', 2);
            INSERT INTO sluice.queues (queue, entity)
                VALUES ('payment.0', 'payment'), ('payment.1', 'payment');
            INSERT INTO sluice.topics VALUES ('payments', 'id', 'payment');
            INSERT INTO sluice.lane_offsets (topic, partition, queue, epoch, applied_offset)
                VALUES ('payments', 0, 'payment.0', 1, 20), ('payments', 0, 'payment.1', 1, 30);
            INSERT INTO sluice.projections VALUES ('totals', 2, 3);
            INSERT INTO sluice.generations (projection, generation, state, revision, has_been_live)
                VALUES ('totals', 1, 'retired', 1, true), ('totals', 2, 'live', 1, true),
                       ('totals', 3, 'stopped', 1, true);
            INSERT INTO sluice.generation_lanes
                (projection, generation, topic, partition, queue, applied_offset, folded)
                VALUES ('totals', 1, 'payments', 0, 'payment.0', 7, 6),
                       ('totals', 3, 'payments', 0, 'payment.0', 5, 2);
            INSERT INTO sluice.generation_failures VALUES ('totals', 1, 'payment.0', '.x')
            """
        )
    )
    connection.commit()
    return make_session()


@pytest.fixture
def old(session: Session, database_url: str) -> Iterator[Session]:
    """Yields a session of the previous version on the migrated database."""
    with closing(Session(database_url, application_name="old worker", plans=BATCH_PLANS)) as made:
        made.run(OLD_LOCK, *RETIRED, QUEUE, ["payments"], [0])
        upgrade(database_url)
        yield made


def old_advance(session: Session, offset: int, folded: int) -> None:
    """Advances the lane of the retired generation as a worker of the previous version does."""
    session.run(OLD_ADVANCE, *RETIRED, QUEUE, ["payments"], [0], [offset], False, [folded])


def test_lanes_and_windows_are_kept(session: Session, database_url: str) -> None:
    upgrade(database_url)
    assert session.run(READ_LANES) == [(1, QUEUE, 7, 6), (3, QUEUE, 5, 2)]
    windows = Statement("windows", "SELECT generation, queue, failure_window FROM sluice.generation_windows")
    assert session.run(windows) == [(1, QUEUE, ".x")]


def test_both_versions_read_and_write_the_same_rows(session: Session, old: Session) -> None:
    old_advance(old, 8, 1)
    with session.transaction():
        assert lock_lanes(session, *RETIRED, QUEUE, [PLACE]) == {PLACE: 8}
        step = GenerationStep(*PLACE, 8, 9, {"folded": 1})
        generation_lanes.advance_generation(session, *RETIRED, QUEUE, [step], catches_up=True)
    assert old.run(OLD_LOCK, *RETIRED, QUEUE, ["payments"], [0]) == [(*PLACE, 9)]
    old.run(OLD_MAKE, *RETIRED, QUEUE, ["payments", "payments"], [0, 1])
    assert old.run(OLD_LOCK, *RETIRED, QUEUE, ["payments"], [1]) == [("payments", 1, -1)]
    old_advance(old, 9, -1)
    assert read_passed(session, *RETIRED)["folded"] == 7
    assert lock_lanes(session, *RETIRED, QUEUE, [PLACE]) == {PLACE: 9}
    filled = Statement("filled", "SELECT max(filled_xid) > 0 FROM sluice.generation_lanes")
    assert old.run(filled) == [(True,)]


def test_a_stopped_generation_keeps_its_offsets_and_gets_missing_lanes(
    session: Session, old: Session
) -> None:
    old.run(OLD_KEEP_LIVE_PLACES, *STOPPED)
    generation_lanes.keep_live_places(session, *STOPPED, None)
    assert session.run(READ_LANES) == [(1, QUEUE, 7, 6), (3, QUEUE, 5, 2), (3, "payment.1", 30, 0)]


def test_a_generation_that_is_retired_by_the_previous_version_has_the_live_offsets(
    session: Session, old: Session
) -> None:
    old.run(OLD_FOLLOW_LIVE, *RETIRED)
    assert session.run(READ_LANES) == [(1, QUEUE, 20, 6), (1, "payment.1", 30, 0), (3, QUEUE, 5, 2)]


def test_a_batch_of_the_previous_version_continues_over_the_migration(
    session: Session, database_url: str
) -> None:
    with closing(patient_session(database_url)) as old:
        with old.transaction():
            old.command("SELECT FROM sluice.queues WHERE queue = 'payment.0' FOR UPDATE")
            upgrade(database_url)
            old_advance(old, 8, 1)
        with old.transaction():
            assert old.run(OLD_LOCK, *RETIRED, QUEUE, ["payments"], [0]) == [(*PLACE, 8)]
    assert session.run(READ_LANES)[0] == (1, QUEUE, 8, 7)


def make_at_the_same_time(session: Session, database_url: str) -> list[tuple[object, ...]]:
    """Returns the rows of a lane whose first row two transactions insert at the same time."""
    place = ("payments", 5)
    is_blocked = Statement("is_blocked", "SELECT cardinality(pg_blocking_pids($1)) > 0", ("int",))
    with (
        closing(Session(database_url, application_name="second")) as second,
        closing(Session(database_url, application_name="look")) as look,
    ):
        with session.transaction():
            pid = second.connection.get_backend_pid()
            # A chunk and a batch.
            lock_lanes(session, *STOPPED, QUEUE, [place])
            other = Thread(target=keep_places, args=(second, *STOPPED, QUEUE, {place: 4}))
            other.start()
            wait_until(
                lambda: not other.is_alive() or look.run(is_blocked, pid) == [(True,)],
                timeout_seconds=10,
                what="the second transaction waits or has ended",
            )
        other.join(patient(10))
    rows = Statement(
        "rows", "SELECT applied_offset FROM sluice.generation_offsets WHERE partition = 5 ORDER BY 1"
    )
    return session.run(rows)


def test_two_transactions_insert_one_row_per_lane(session: Session, database_url: str) -> None:
    upgrade(database_url)
    assert make_at_the_same_time(session, database_url) == [(-1,)]


def test_a_mutant_without_the_lock_of_the_lane_is_caught(session: Session, database_url: str) -> None:
    upgrade(database_url)
    source = Statement("source", "SELECT pg_get_functiondef('sluice.pass_on_generation_lane'::regproc)")
    [(written,)] = session.run(source)
    assert "PERFORM pg_advisory_xact_lock" in written
    session.command(written.replace("PERFORM pg_advisory_xact_lock", "PERFORM abs"))
    assert make_at_the_same_time(session, database_url) == [(-1,), (4,)]
