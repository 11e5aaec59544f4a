"""User tables with unusual names and declarations: `init` creates them, and events are applied to them."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
    text,
)

from sluice.admin.init import create_tables
from sluice.db.identifiers import qualified
from sluice.db.tables import TableRefused, entity_table, is_projection, projection_table
from sluice.tasks.api import Entity, Event, Handler, Topic, Upsert, handles, projects
from sluice.tasks.fold.registry import Registry, collect_modules
from tests.db.tasks import applying
from tests.db.tasks.applying import TOPIC, Bench, made, slice_of

UMLAUTS = "Größe der Bestellung über alles"
NAMES = ["order", "Order", "user", "two words", "a-b", "$1", "1st", "x" * 63, "t", "d", "queues"]
# These names differ only at the end. Postgres removes the end if a name that is derived from them is too
# long.
NAMES += ["ü" * 30 + "a", "ü" * 30 + "b"]
COLUMNS = ["Status", "status", "order", "two words", "a-b", "d", "t", "json", UMLAUTS, "y" * 63]
ANY_CASE = (
    "CREATE COLLATION public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
)
VALUES = {column: f"value of {number}" for number, column in enumerate(COLUMNS)}


def declare(name: str, make: Any = entity_table, *more: Any) -> Table:
    columns = [Column(column, String(20)) for column in COLUMNS]
    table: Table = make(name, MetaData(), Column("The Key", String(64), primary_key=True), *columns, *more)
    return table


def writing(table: Table) -> Handler:
    """Returns a handler that writes one row of a table."""

    def write(event: Event[Any]) -> Iterator[Any]:
        yield Upsert(table, event.key, event.data)

    write.__qualname__ = f"write {table.name}"
    if is_projection(table):
        return projects("thing.set", into=table, revision=1)(write)
    return handles("thing.set")(write)


def code_for(*tables: Table) -> Registry:
    """Returns code in which each `thing.set` event writes one row of each table."""
    module = ModuleType("awkward")
    module.topics = (Topic(TOPIC, entity=Entity("thing", 1)),)  # type: ignore[attr-defined]
    vars(module).update({f"write {table.name}": writing(table) for table in tables}, tables=tables)
    return collect_modules([module])


def test_events_are_applied_to_tables_with_unusual_names(database_url: str) -> None:
    applying.create_tables(database_url)
    projections = [declare(f"{name} as view"[:50], projection_table) for name in ("Order", "p" * 50, UMLAUTS)]
    tables = [*map(declare, NAMES), *projections]
    code = code_for(*tables)
    created, viewed = create_tables(database_url, code)
    assert {*created, *viewed} >= {table.name for table in tables}
    assert create_tables(database_url, code) == ([], [])
    bench = Bench(database_url, code)
    # The first event inserts the rows, the second event updates them.
    for offset, data in enumerate([dict.fromkeys(COLUMNS, "before"), VALUES]):
        bench.apply(slice_of([made(offset, "thing.set", **data)], offset - 1))
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    for table in tables:
        [row] = bench.look(f'SELECT "The Key", {names} FROM {qualified(table.name)}')
        assert row == ("k", *VALUES.values()), table.name
    bench.close()


def test_a_projection_can_have_several_indexes_with_long_names(
    database_url: str, connection: Connection
) -> None:
    wide = Column("z" * 60, String)
    table = projection_table(
        "p" * 50,
        MetaData(),
        Column("id", String(64), primary_key=True),
        wide,
        Index("one", wide),
        Index("two", wide, unique=True),
        Index("three", func.lower(wide)),
        UniqueConstraint(wide, "id"),
    )
    assert create_tables(database_url, code_for(table))[1] == [table.name]
    query = "SELECT indexname FROM pg_indexes WHERE tablename = :name"
    assert len(connection.scalars(text(query), {"name": f"{table.name}_g1"}).all()) == 5


def test_a_projection_without_handlers_is_created(database_url: str, connection: Connection) -> None:
    entity, projection = declare("things of a user"), declare("totals", projection_table)
    code = code_for(entity)
    code.tables["totals"] = projection
    assert create_tables(database_url, code)[1] == ["totals"]
    query = text("SELECT revision FROM sluice.generations WHERE projection = 'totals'")
    assert connection.scalars(query).all() == [1]
    assert connection.execute(text("SELECT * FROM public.totals")).all() == []


def test_tables_of_one_metadata_can_refer_to_tables_of_another(database_url: str) -> None:
    """The order of the table names does not matter."""
    parent = declare("m parent")
    children = [
        declare(name, entity_table, Column("parent", ForeignKey(parent.columns["The Key"])))
        for name in ("a child", "z child")
    ]
    code = code_for(children[0], parent, children[1])
    assert {"m parent", "a child", "z child"} <= set(create_tables(database_url, code)[0])


def test_circular_references_between_two_metadata_are_refused(database_url: str) -> None:
    one, two = declare("one"), declare("two")
    for table, other in ((one, two), (two, one)):
        table.append_constraint(ForeignKeyConstraint(["status"], [other.columns["The Key"]]))
    with pytest.raises(TableRefused, match="several MetaData objects refer to each other: one, two"):
        create_tables(database_url, code_for(one, two))


REFUSED_BY_POSTGRES: list[tuple[Callable[[], Column[Any]], str]] = [
    (
        lambda: Column("a", String(collation="nowhere")),
        r'`CREATE TABLE refused(_g1)?`: collation "nowhere" for encoding "UTF8" does not exist',
    ),
    (lambda: Column("a", String, CheckConstraint("b > 0")), r'refused(_g1)?`: column "b" does not exist'),
    (lambda: Column("a", String, index=True), r"`CREATE INDEX \w+ ON refused\w* \(a\)`: .* already exists"),
]


@pytest.mark.parametrize("make", [entity_table, projection_table])
def test_a_table_that_postgres_refuses_to_create_is_reported_in_one_sentence(
    database_url: str, connection: Connection, make: Any
) -> None:
    for taken in ("ix_refused_a", "refused_g1_a_idx"):
        connection.execute(text(f"CREATE TABLE public.{taken} (n int)"))
    connection.commit()
    for column, words in REFUSED_BY_POSTGRES:
        table = make("refused", MetaData(), Column("id", String(64), primary_key=True), column())
        code = Registry(metadatas=[table.metadata], tables={"refused": table})
        with pytest.raises(TableRefused, match=words):
            create_tables(database_url, code)


def test_a_key_whose_collation_treats_different_texts_as_equal_is_refused(
    database_url: str, connection: Connection
) -> None:
    connection.execute(text(ANY_CASE))
    connection.commit()
    key = Column("id", String(64, collation="any_case"), primary_key=True)
    with pytest.raises(TableRefused, match="table loose: key id has collation any_case, which treats"):
        create_tables(database_url, code_for(entity_table("loose", MetaData(), key)))
    assert connection.scalar(text("SELECT to_regclass('public.loose')")) is None
    key = Column("id", String(64, collation="C"), primary_key=True)
    assert "strict" in create_tables(database_url, code_for(entity_table("strict", MetaData(), key)))[0]
