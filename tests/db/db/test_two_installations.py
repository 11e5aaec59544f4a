"""Two installations in two schemas of one database do not disturb each other."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import pytest
from alembic import command
from psycopg2.errors import LockNotAvailable
from sqlalchemy import Column, MetaData, String
from sqlalchemy.pool import NullPool

from sluice.admin.doctor.facts import Facts
from sluice.admin.doctor.facts_reading import _postgres, declared_facts
from sluice.admin.doctor.rules import find_problems
from sluice.admin.init import create_tables, missing_sql
from sluice.db import schema_text
from sluice.db.admin.outbox_admin import LOCK_RELAY
from sluice.db.admin.server_facts import read_beat_silence
from sluice.db.connection import Session, Statement
from sluice.db.delivery.bridge_instances import claim_instance, try_instance
from sluice.db.delivery.installation import read_installation
from sluice.db.delivery.leases import end_lease, join_workers, read_lease_snapshot, try_lead, try_lease
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.migrations import migrate
from sluice.db.migrations.migrate import current_revision, newest_revision, upgrade
from sluice.db.projections.generation_lag import try_rebuild
from sluice.db.sending.calls import LOCK_ORDER
from sluice.db.sending.relay import lock_waiting
from sluice.db.tables import TableRefused, entity_table
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.schema_name import parse_schema, with_schema
from sluice.runtime.settings import Settings, read_settings
from sluice.tasks.api import Emit
from sluice.tasks.fold.registry import Registry, collect_handlers
from sluice.tasks.installation.opening import open_installation
from sluice.tasks.outbox.emit import emit, queue_of
from sluice.tasks.retention import purge
from sluice.testing.servers.postgres_world import PostgresWorld, postgres_world
from tests.db.tasks import projecting
from tests.db.tasks.applying import TOPIC, thing_set
from tests.db.tasks.applying import create_tables as create_things
from tests.harness.raw_sql import make_engine
from tests.harness.stacks import install
from tests.mutants import mutated

OTHER = "billing"
SHOP = "examples.shop.handlers"
ORDER = {"customer_id": "c-7", "email": "ann@example.org", "total_cents": 2500}
READ_TABLES = Statement(
    "tables_of_schema",
    """
    SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relkind = 'r' ORDER BY 1
    """,
    ("text",),
)


@pytest.fixture
def other_url(database_url: str) -> str:
    """The URL of the second schema of the same database. It has Sluice's tables, and no installation yet."""
    url = with_schema(database_url, OTHER)
    upgrade(url)
    return url


@pytest.fixture
def things(database_url: str) -> Iterator[projecting.Bench]:
    """The first installation, with the tables `things`, `parts` and the projection `totals`."""
    install(database_url)
    create_things(database_url)
    registry = projecting.registry(1)
    migrate.create_projections(database_url, {"totals": projecting.totals}, {"totals": 1})
    with closing(projecting.Bench(database_url, registry)) as bench:
        yield bench


@pytest.fixture
def shop(other_url: str, things: projecting.Bench) -> Iterator[PostgresWorld]:
    """The second installation, with the tables of the shop."""
    assert things
    with postgres_world(other_url, SHOP) as world:
        yield world


def contents(session: Session) -> Mapping[str, object]:
    """Returns table of the session's schema → its rows."""
    tables = [name for (name,) in session.run(READ_TABLES, session.schema)]
    assert len(tables) > 30
    read = "SELECT t::text FROM sluice.{} t ORDER BY 1"
    return {name: session.run(Statement(f"all_of_{name}", read.format(name))) for name in tables}


def settings_of(database_url: str) -> Settings:
    """Returns the settings of a process."""
    return read_settings(
        {
            "SLUICE_DATABASE_URL": database_url,
            "SLUICE_REDIS_URL": "redis://nowhere",
            "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        }
    )


def test_both_apply_events_and_neither_sees_the_other(things: projecting.Bench, shop: PostgresWorld) -> None:
    things.live(thing_set(0, "a", 5), thing_set(1, "b", 7))
    assert shop.send("orders", key="o-1", type="order.placed", data=ORDER) == "applied"
    things.live(thing_set(2, "a", 6))
    assert things.amounts() == {"a": 6, "b": 7}
    assert things.rows() == {"a": (6, 2), "b": (7, 1)}
    assert things.look("SELECT topic FROM sluice.topics") == [(TOPIC,)]
    assert things.outcomes() == {"applied": 3}
    assert list(shop.rows("orders")) == ["o-1"]
    assert [event.topic for event in shop.emitted] == ["order-events"]
    assert things.look("SELECT DISTINCT topic FROM sluice.outbox_events") == [("things-out",)]


def test_the_installations_have_ids_of_their_own(things: projecting.Bench, shop: PostgresWorld) -> None:
    ours = open_installation(settings_of(things.database_url))
    theirs = open_installation(settings_of(with_schema(things.database_url, OTHER)))
    assert ours.installation.name == theirs.installation.name
    assert ours.installation.group != theirs.installation.group
    assert ours.database == theirs.database
    assert shop


def test_a_schema_without_installation_is_refused_in_one_sentence(things: projecting.Bench) -> None:
    settings = settings_of(with_schema(things.database_url, "nothing_here"))
    with pytest.raises(InstallationRefused) as refused:
        open_installation(settings)
    assert str(refused.value) == (
        "schema nothing_here of the database holds no installation;"
        " run `sluice init`, or correct SLUICE_SCHEMA"
    )


# Each takes the lock of one purpose, and returns False if another session has it.
LOCKS: dict[str, Callable[[Session], object]] = {
    "beat": try_lead,
    "lease": lambda session: try_lease(session, "thing.0"),
    "bridge": lambda session: try_instance(session, "sluice-1a2b3c4d", 0),
    "rebuild": lambda session: try_rebuild(session, "totals", 0),
}
"""Session locks. The installations use the same names of queues, groups and projections here."""
WAITING_LOCKS: dict[str, Callable[[Session], object]] = {
    "relay": lambda session: session.run(LOCK_RELAY, "thing.0"),
    "call": lambda session: session.run(LOCK_ORDER, "thing k"),
}
"""Locks that a transaction waits for."""
SHORT = {"lock_timeout": "50ms"}


def excluded(first: str, second: str) -> dict[str, bool]:
    """Returns purpose → True if a session of `second` is refused what a session of `first` holds."""
    with (
        closing(Session(first, application_name="sluice one")) as one,
        closing(Session(second, application_name="sluice two", settings=SHORT)) as two,
    ):
        found = {purpose: bool(take(one)) and not take(two) for purpose, take in LOCKS.items()}
        for purpose, take in WAITING_LOCKS.items():
            with one.transaction():
                take(one)
                found[purpose] = waits(two, take)
    return found


def waits(session: Session, take: Callable[[Session], object]) -> bool:
    """Returns True if another session holds the lock."""
    try:
        with session.transaction():
            take(session)
    except LockNotAvailable:
        return True
    return False


def test_both_hold_their_own_locks_at_once(database_url: str, other_url: str) -> None:
    everything = [*LOCKS, *WAITING_LOCKS]
    assert excluded(database_url, other_url) == dict.fromkeys(everything, False)
    assert excluded(other_url, database_url) == dict.fromkeys(everything, False)
    assert excluded(database_url, database_url) == dict.fromkeys(everything, True)
    assert excluded(other_url, other_url) == dict.fromkeys(everything, True)


def test_without_the_schema_in_the_numbers_the_installations_exclude_each_other(
    database_url: str, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = mutated(schema_text, "lock_name(schema, purpose)", "lock_name(WRITTEN, purpose)")
    monkeypatch.setattr("sluice.db.connection.in_schema", mutant.in_schema)
    assert excluded(database_url, other_url) == dict.fromkeys([*LOCKS, *WAITING_LOCKS], True)


def test_members_leases_and_the_beat_are_found_in_the_own_installation(
    things: projecting.Bench, other_url: str
) -> None:
    with (
        closing(Session(things.database_url, application_name="sluice a")) as ours,
        closing(Session(other_url, application_name="sluice b")) as theirs,
    ):
        register_topic(theirs, TopicStart(TOPIC, "id", "thing", 1, {0: 0}))
        for session in (ours, theirs):
            join_workers(session)
        assert read_beat_silence(theirs) is None
        assert try_lead(ours)
        assert read_beat_silence(theirs) is None
        assert read_beat_silence(ours) is not None
        assert try_lease(ours, "thing.0")
        for session, held in ((ours, True), (theirs, False)):
            found = read_lease_snapshot(session)
            assert found.members == {found.me}
            assert [lease.holder == found.me for lease in found.leases] == [held]
        end_lease(ours, "thing.0")
        assert claim_instance(ours, "group") == claim_instance(theirs, "group") == 0


def test_users_transactions_emit_into_the_schema_of_their_process(
    things: projecting.Bench, other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(other_url)
    event = [Emit("orders", key="k", type="made", data={})]
    read = Statement("read_emitted", "SELECT source FROM sluice.outbox_events ORDER BY id")
    with (
        closing(Session(things.database_url, application_name="test")) as ours,
        closing(Session(other_url, application_name="test")) as theirs,
    ):
        # Both transactions are open at once: the lock of the queue belongs to one installation.
        engine = make_engine(things.database_url, poolclass=NullPool)
        with engine.begin() as one, engine.begin() as two:
            monkeypatch.setenv("SLUICE_SCHEMA", ours.schema)
            emit(one, event)
            monkeypatch.setenv("SLUICE_SCHEMA", theirs.schema)
            two.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")
            emit(two, event)
        for session in (ours, theirs):
            stored = read_installation(session)
            assert stored is not None
            assert session.run(read) == [(stored.installation.group,)]
        queue = queue_of("app", "k")
        with ours.transaction(), theirs.transaction():
            assert lock_waiting(ours, {queue: 0}) == lock_waiting(theirs, {queue: 0}) == {queue: None}


def test_migrations_of_one_leave_the_other(things: projecting.Bench, other_url: str) -> None:
    things.live(thing_set(0))
    before = contents(things.looking)
    engine = make_engine(other_url, poolclass=NullPool, connect_args={"options": "-c search_path=public"})
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {OTHER} CASCADE; CREATE SCHEMA {OTHER}")
        config = migrate.build_config(OTHER)
        config.attributes["connection"] = connection
        command.upgrade(config, "0025")
    assert current_revision(other_url) == "0025"
    assert current_revision(things.database_url) == newest_revision()
    upgrade(other_url)
    assert current_revision(other_url) == newest_revision()
    assert contents(things.looking) == before
    upgrade(things.database_url)
    assert contents(things.looking) == before
    things.live(thing_set(1, "b"))
    assert things.amounts() == {"k": 1, "b": 1}


def test_both_schemas_have_the_same_objects(database_url: str, other_url: str) -> None:
    catalogue = Statement(
        "catalogue_of_schema",
        """
        SELECT c.relname::text, c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
               replace(pg_get_expr(d.adbin, d.adrelid), $1 || '.', '')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        UNION ALL
        -- A body contains names of objects and of locks.
        SELECT p.proname::text, 'function', NULL, NULL,
               replace(replace(p.prosrc, $1 || '.', ''), chr(39) || $1 || ' ', chr(39))
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = $1
        UNION ALL
        SELECT c.conname::text, 'constraint', NULL, NULL, replace(pg_get_constraintdef(c.oid), $1 || '.', '')
        FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace AND n.nspname = $1
        ORDER BY 1, 2, 3
        """,
        ("text",),
    )
    with closing(Session(database_url, application_name="test")) as session:
        ours, theirs = session.run(catalogue, session.schema), session.run(catalogue, OTHER)
    assert ours == theirs
    assert len(ours) > 300


def test_a_purge_and_a_rebuild_of_one_leave_the_other(things: projecting.Bench, shop: PostgresWorld) -> None:
    shop.send("orders", key="o-1", type="order.placed", data=ORDER)
    things.live(thing_set(0, "a", 5), thing_set(1, "b", 7))
    age = "UPDATE sluice.processed_events SET processed_at = now() - interval '90 days'"
    with (
        closing(Session(with_schema(things.database_url, OTHER), application_name="test")) as theirs,
        closing(things.with_code(projecting.registry(2, 10))) as fixed,
    ):
        theirs.command(age)
        before = contents(theirs)
        number = fixed.begin()
        assert fixed.rebuild(number)
        fixed.swap(number)
        assert fixed.rows() == {"a": (50, 1), "b": (70, 1)}
        things.looking.command(age)
        log = {"cleanup.policy": "delete", "retention.ms": "3600000", "segment.ms": "3600000"}
        purged = purge(things.looking, settings_of(things.database_url), {TOPIC: log})
        assert purged.gone == {f"identities of {TOPIC}": 2}
        assert contents(theirs) == before


def test_texts_of_users_are_not_translated(other_url: str) -> None:
    install(other_url)
    create_things(other_url)
    migrate.create_projections(other_url, {"totals": projecting.totals}, {"totals": 1})
    with closing(projecting.Bench(other_url, projecting.registry(1))) as bench:
        bench.looking.users_command("COMMENT ON TABLE public.totals_g1 IS 'sluice.queues'")
        with closing(bench.with_code(projecting.registry(2))) as changed:
            number = changed.begin()
        described = f"SELECT obj_description('public.totals_g{number}'::regclass)"
        assert bench.look(described) == [("sluice.queues",)]


def test_doctor_finds_nothing_at_either(things: projecting.Bench, shop: PostgresWorld) -> None:
    assert shop
    assert problems(things.database_url, things.registry) == []
    assert problems(with_schema(things.database_url, OTHER), collect_handlers(SHOP)) == []


def problems(url: str, registry: Registry) -> list[str]:
    """Returns what `sluice doctor` finds in Postgres, except that no process runs, and no fsync."""
    settings = settings_of(url)
    declared = declared_facts(settings, registry)
    facts = Facts(declared, _postgres(url, settings.name, declared), None, None, {})
    found = [one.problem for one in find_problems(facts)]
    return [one for one in found if not one.startswith(("No ", "Postgres runs with fsync off"))]


@pytest.mark.parametrize("name", ["totals", "things"])
def test_a_table_of_the_other_installation_is_refused(
    name: str, things: projecting.Bench, other_url: str
) -> None:
    things.live(thing_set(0))
    metadata = MetaData()
    entity_table(name, metadata, Column("id", String, primary_key=True))
    registry = Registry(metadatas=[metadata], tables=dict(metadata.tables))
    expected = f"table {name} belongs to the installation in schema {things.looking.schema} of"
    with pytest.raises(TableRefused, match=expected):
        create_tables(other_url, registry)
    assert create_tables(things.database_url, Registry()) == ([], [])


def test_a_projection_that_the_other_installation_makes_first_is_refused(
    things: projecting.Bench, other_url: str
) -> None:
    """Without the second look, under the lock, `sluice init` would take the view for its own."""
    with pytest.raises(TableRefused, match="table totals belongs to the installation"):
        migrate.create_projections(other_url, {"totals": projecting.totals}, {"totals": 1})
    assert migrate.create_projections(things.database_url, {"totals": projecting.totals}, {"totals": 1}) == []


def test_a_schema_of_another_program_is_refused(database_url: str) -> None:
    url = with_schema(database_url, "shop")
    with closing(Session(url, application_name="test")) as session:
        session.users_command("CREATE SCHEMA shop; CREATE TABLE shop.baskets (id int)")
        with pytest.raises(InstallationRefused, match="schema shop has baskets of another program"):
            upgrade(url)
        with pytest.raises(InstallationRefused, match="schema shop has baskets of another program"):
            missing_sql(url, collect_handlers(SHOP))
        session.users_command("DROP TABLE shop.baskets")
    upgrade(url)
    assert current_revision(url) == newest_revision()


def test_every_reserved_word_is_refused(database_url: str) -> None:
    words = Statement("reserved_words", "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")
    with closing(Session(database_url, application_name="test")) as session:
        reserved = [word for (word,) in session.run(words)]
    accepted = []
    for word in reserved:
        try:
            parse_schema(word)
        except ValueError:
            continue
        accepted.append(word)
    assert accepted == []
    assert len(reserved) > 90
