"""Two objects whose names collide in Postgres are refused, and the error names both objects."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
)

from sluice.db.table_names import require_usable_names
from sluice.db.tables import TableRefused, entity_table, projection_table

Declare = Callable[[MetaData], object]


def key() -> Column[Any]:
    return Column("id", String(64), primary_key=True)


def entity(name: str, *columns: Any) -> Declare:
    return lambda metadata: entity_table(name, metadata, key(), *columns)


def projection(name: str, *columns: Any) -> Declare:
    return lambda metadata: projection_table(name, metadata, key(), *columns)


def plain(name: str, *columns: Any) -> Declare:
    return lambda metadata: Table(name, metadata, Column("n", Integer, primary_key=True), *columns)


def number(name: str = "a", **options: Any) -> Column[Any]:
    return Column(name, Integer, **options)


def status(*labels: str, name: str = "status") -> Column[Any]:
    return Column("s", Enum(*labels, name=name))


def late(name: str) -> Declare:
    """Returns a declaration of a table that receives a column after it was made."""

    def declare(metadata: MetaData) -> None:
        entity_table(name, metadata, key()).append_column(number())

    return declare


def with_key(name: str, key_name: str) -> Declare:
    return lambda metadata: entity_table(
        name, metadata, Column("id", String(64)), PrimaryKeyConstraint("id", name=key_name)
    )


LONG = "x" * 40
COLLIDING: dict[str, tuple[list[Declare], str]] = {
    "two indexes": (
        [entity("a", number(), Index("ix", "a")), entity("b", number(), Index("ix", "a"))],
        "name ix is used for an index of table a and for an index of table b",
    ),
    "two indexes that SQLAlchemy names": (
        [entity("a", number("b_c", index=True)), entity("a_b", number("c", index=True))],
        "name ix_a_b_c is used for",
    ),
    "two indexes of one table": ([entity("a", number(), Index("ix", "a"), Index("ix", "a"))], "name ix"),
    "an index and a table": (
        [entity("a", number(), Index("b", "a")), entity("b")],
        "name b is used for an index of table a and for table b",
    ),
    "an index and a plain table": ([entity("a", number(), Index("b", "a")), plain("b")], "name b is used"),
    "an index and a projection": ([entity("a", number(), Index("p", "a")), projection("p")], "projection p"),
    "an index and a named constraint": (
        [entity("a", number(), Index("u", "a")), entity("b", number(), UniqueConstraint("a", name="u"))],
        "an index of table a and for a constraint of table b",
    ),
    "two keys": ([with_key("a", "pk"), with_key("b", "pk")], "name pk is used for a constraint of table a"),
    "an index and a key that Postgres names": (
        [entity("a", number(), Index("b_pkey", "a")), entity("b")],
        "name b_pkey is used for an index of table a and for a constraint of table b",
    ),
    "an index and a constraint that Postgres names": (
        [entity("a", number(), Index("b_a_key", "a")), entity("b", number(unique=True))],
        "name b_a_key is used",
    ),
    "two constraints of one table": (
        [entity("a", number(), CheckConstraint("a > 0", name="ck"), CheckConstraint("a < 9", name="ck"))],
        "name ck is used for a constraint of table a and for a constraint of table a",
    ),
    "two Enums": (
        [entity("a", status("x")), entity("b", status("x", "y"))],
        "name status is used for an Enum of x and for an Enum of x, y",
    ),
    "an Enum and a table": ([entity("a", status("x", name="b")), entity("b")], "name b is used for an Enum"),
    "a table named like a generation": (
        [projection("p"), entity("p_g1")],
        "for table p_g1, is reserved",
    ),
    "a plain table named like a generation": (
        [projection("p"), plain("p_g12")],
        "a generation of projection p",
    ),
    "a projection named like a generation": (
        [projection("p"), projection("p_g1")],
        "p_g1, used for projection",
    ),
    "an index named like the index of a generation": (
        [projection("p"), entity("a", number(), Index("p_g1_a_idx", "a"))],
        "p_g1_a_idx, used for an index of table a",
    ),
    "an index with a long name": (
        [entity("a", number(), Index("i" * 64, "a"))],
        "table a: the name of index .* 64 bytes",
    ),
    "an index with a name of multi-byte letters": (
        [entity("a", number(), Index("ü" * 32, "a"))],
        "has 64 bytes",
    ),
    "a constraint with a long name": (
        [entity("a", number(), CheckConstraint("a > 0", name="c" * 64))],
        "table a: the name of constraint .* 64 bytes",
    ),
    "a constraint with a dot": ([entity("a", number(), UniqueConstraint("a", name="u.x"))], r"holds '\.'"),
    "a foreign key to a projection": (
        [projection("p"), entity("a", Column("p_id", String, ForeignKey("p.id")))],
        "table a: a foreign key references projection p",
    ),
    "a foreign key to a missing table": (
        [entity("a", Column("p_id", String, ForeignKey("p.id")))],
        "table a: Foreign key associated with column 'a.p_id' could not find table 'p'",
    ),
    "a late column": ([late("a")], "table a: column a was added after the table was made"),
}
ALLOWED: dict[str, list[Declare]] = {
    "names that differ only in case": [
        entity("orders"),
        entity("Orders"),
        entity("a", number(), Index("ORDERS", "a")),
    ],
    "equal names of constraints in two tables": [
        entity(name, number(), CheckConstraint("a > 0", name="positive")) for name in ("a", "b")
    ],
    "the same Enum in two tables": [entity(name, status("x", "y")) for name in ("a", "b")],
    "an Enum as text": [entity("a", Column("b", Enum("x", native_enum=False, name="b"))), entity("b")],
    "constraints for which Postgres would choose the same name": [
        entity("a", number("b_c", unique=True)),
        entity("a_b", number("c", unique=True)),
    ],
    "long names that SQLAlchemy shortens": [
        entity(f"{LONG}{name}", number("y" * 40, index=True)) for name in ("a", "b")
    ],
    "names that only resemble the name of a generation": [
        projection("p"),
        entity("p_g"),
        entity("p_gx"),
        entity("p_great"),
        entity("xp_g1"),
        entity("a_g1"),
    ],
    "indexes of a projection": [
        projection("p", number(), Index("i", "a")),
        entity("b", number(), Index("i", "a")),
    ],
    "the names of Sluice's own tables": [entity("queues"), entity("processed_events")],
    "a plain table of another schema": [
        entity("a"),
        lambda metadata: Table("a", metadata, Column("n", Integer), schema="elsewhere"),
    ],
}


def declared(declarations: list[Declare]) -> list[Table]:
    metadata = MetaData()
    for declare in declarations:
        declare(metadata)
    return list(metadata.tables.values())


@pytest.mark.parametrize("name", COLLIDING)
def test_colliding_names_are_refused(name: str) -> None:
    declarations, text = COLLIDING[name]
    with pytest.raises(TableRefused, match=text):
        require_usable_names(declared(declarations))


@pytest.mark.parametrize("name", ALLOWED)
def test_names_that_do_not_collide_are_allowed(name: str) -> None:
    require_usable_names(declared(ALLOWED[name]))
