"""Tables of users: the columns that Sluice adds, and the errors for tables that Sluice refuses."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Computed,
    DateTime,
    Enum,
    FetchedValue,
    Float,
    ForeignKey,
    Identity,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Sequence,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, DOMAIN, INET, JSONB, TIMESTAMP
from sqlalchemy.sql import quoted_name
from sqlalchemy.types import BLOB, CHAR, CLOB, NCHAR, NVARCHAR, REAL, TypeEngine

from sluice.db.tables import TableRefused, entity_table, projection_table, shape_of


def key() -> Column[Any]:
    return Column("id", String(64), primary_key=True)


def required() -> Column[Any]:
    return Column("a", Integer, nullable=False)


def make(*columns: Column[Any] | UniqueConstraint, **options: Any) -> Table:
    return entity_table("boxes", MetaData(), *columns, **options)


def test_bookkeeping_columns_are_added() -> None:
    assert [c.name for c in make(key(), Column("a", Integer)).columns] == [
        "id",
        "a",
        "version",
        "inserted_hash",
    ]
    merged = make(key(), merged=True)
    assert [c.name for c in merged.columns] == ["id", "version", "inserted_hash", "field_versions"]
    assert all(merged.columns[name].nullable for name in ("version", "inserted_hash", "field_versions"))


def test_the_shape_of_a_table_lists_fields_counters_and_defaults() -> None:
    table = make(
        key(),
        Column("a", Integer, nullable=False),
        Column("b", Numeric(5, 2), default=1),
        Column("n", Integer, nullable=False, default=0),
        counters=("n",),
        deletable=True,
        versions="timestamp",
    )
    shape = shape_of(table)
    assert (shape.key, shape.fields, shape.row_columns) == ("id", ("a", "b"), ("a", "b", "n"))
    assert shape.counters == {"n"}
    assert shape.required == {"a", "n"}
    assert repr(shape.defaults) == "{'a': None, 'b': Decimal('1.00'), 'n': 0}", "Postgres returns this form"
    assert (shape.versions, shape.merged, shape.deletable) == ("timestamp", False, True)


def test_a_table_declares_which_of_two_equal_timestamps_wins() -> None:
    assert shape_of(make(key(), versions="timestamp", equal_versions="first")).first_wins
    assert not shape_of(make(key(), versions="timestamp", equal_versions="last")).first_wins
    assert not shape_of(make(key(), versions="timestamp")).first_wins
    table = projection_table("boxes", MetaData(), key(), versions="timestamp", equal_versions="first")
    assert shape_of(table).first_wins


def field(kind: Any, **options: Any) -> Callable[[], object]:
    return lambda: make(key(), Column("a", kind, **options))


def named(name: Any) -> Callable[[], object]:
    return lambda: entity_table(name, MetaData(), key())


class Shouted(TypeDecorator[str]):
    """A type that a user defined."""

    impl = String
    cache_ok = True


class Renamed(String):
    """A type that has another name in Postgres."""

    __visit_name__ = "CITEXT_OF_OURS"


STRANGE = ".\0\"'%:;\n\\/(\ud800"
REFUSED: list[tuple[str, Callable[[], object], str]] = [
    ("unknown versions", lambda: make(key(), versions="text"), 'boxes: versions=.text.; use "integer"'),
    (
        "unknown equal_versions",
        lambda: make(key(), versions="timestamp", equal_versions="newest"),
        'boxes: equal_versions=.newest.; use "last" or "first"',
    ),
    ("equal_versions=first", lambda: make(key(), equal_versions="first"), "different values are a conflict"),
    ("equal_versions=last", lambda: make(key(), equal_versions="last"), "different values are a conflict"),
    (
        "equal_versions of a projection",
        lambda: projection_table("boxes", MetaData(), key(), equal_versions="first"),
        "different values are a conflict",
    ),
    ("no key", lambda: make(Column("a", Integer)), "table boxes needs exactly one primary-key column"),
    ("two keys", lambda: make(key(), Column("b", String, primary_key=True)), "exactly one primary-key"),
    ("a number as key", lambda: make(Column("id", Integer, primary_key=True)), "of a text type"),
    ("a Sluice name", lambda: make(key(), Column("version", Integer)), "column version is reserved for"),
    ("an unknown type", lambda: make(key(), Column("a", Interval)), "column a has type"),
    ("an array", lambda: make(key(), Column("a", ARRAY(Integer))), "not supported"),
    ("a time without zone", lambda: make(key(), Column("a", DateTime)), r"needs DateTime\(timezone=True\)"),
    ("a rounded time", lambda: make(key(), Column("a", TIMESTAMP(True, 3))), "pads or rounds"),
    ("a padded text", lambda: make(key(), Column("a", CHAR(3))), "pads or rounds"),
    ("a single float", lambda: make(key(), Column("a", REAL)), "pads or rounds"),
    ("a short float", lambda: make(key(), Column("a", Float(24))), "pads or rounds"),
    ("a server default", lambda: make(key(), Column("a", Integer, server_default="1")), "literal default"),
    (
        "a computed default",
        lambda: make(key(), Column("a", Integer, default=func.random())),
        "literal default",
    ),
    ("a function default", lambda: make(key(), Column("a", Integer, default=lambda: 1)), "literal default"),
    (
        "a default of another type",
        lambda: make(key(), Column("a", Integer, default="1")),
        "default of column a",
    ),
    ("a counter without column", lambda: make(key(), counters=("n",)), "counter n is not a number column"),
    (
        "a text as counter",
        lambda: make(key(), Column("n", String, default=""), counters=("n",)),
        "not a number",
    ),
    (
        "a counter without default",
        lambda: make(key(), Column("n", Integer), counters=("n",)),
        "needs default=0",
    ),
    (
        "a required column without default in a merged table",
        lambda: make(key(), required(), merged=True),
        "merged table boxes: column a",
    ),
    (
        "an Enum as key",
        lambda: make(Column("id", Enum("a", name="e"), primary_key=True)),
        "that is not a text",
    ),
    ("CITEXT as key", lambda: make(Column("id", CITEXT, primary_key=True)), "that differ only in case"),
    (
        "CITEXT as key by a variant",
        lambda: make(Column("id", String().with_variant(CITEXT(), "postgresql"), primary_key=True)),
        "a type with variants",
    ),
    ("a type of a user", field(Shouted), "not supported"),
    ("a subclass with another name", field(Renamed), "which Postgres does not have"),
    ("an array of a supported type", field(ARRAY(String)), "not supported"),
    ("a domain", field(DOMAIN("amount", Integer)), "not supported"),
    ("an address", field(INET), "not supported"),
    ("a variant", field(Integer().with_variant(Text(), "postgresql")), "a type with variants"),
    ("a uuid that is text", field(Uuid(native_uuid=False)), r"CHAR\(32\) in Postgres"),
    ("a padded national text", field(NCHAR(3)), r"NCHAR\(3\) in Postgres"),
    ("a type of another database", field(NVARCHAR(3)), r"NVARCHAR\(3\) in Postgres"),
    ("a large text of another database", field(CLOB), "CLOB in Postgres"),
    ("bytes of another database", field(BLOB), "BLOB in Postgres"),
    ("an Enum without name", field(Enum("a")), "an Enum without name="),
    ("an Enum of another schema", field(Enum("a", name="e", schema="x")), "an Enum of schema 'x'"),
    ("an Enum whose name is too long", field(Enum("a", name="e" * 64)), "whose name has 64 bytes"),
    ("no characters", field(String(0)), "has length 0"),
    ("too many characters", field(String(10_485_761)), "has length 10485761"),
    ("too many digits", field(Numeric(1001)), "has precision 1001"),
    ("a scale above the precision", field(Numeric(2, 3)), "has scale 3"),
    ("a negative scale", field(Numeric(5, -2)), "has scale -2"),
    ("a float of too many bits", field(Float(54)), "has precision 54"),
    ("onupdate", field(Integer, onupdate=1), "has onupdate="),
    ("a function as onupdate", field(Integer, onupdate=lambda: 1), "has onupdate="),
    ("onupdate of Postgres", field(Integer, server_onupdate=FetchedValue()), "has onupdate="),
    ("an identity", lambda: make(key(), Column("a", Integer, Identity())), "filled by Postgres"),
    ("a computed column", lambda: make(key(), Column("a", Integer, Computed("1"))), "filled by Postgres"),
    ("autoincrement", field(Integer, autoincrement=True), "filled by Postgres"),
    ("a sequence", lambda: make(key(), Column("a", Integer, Sequence("s"))), "literal default"),
    ("a default of Postgres", field(Integer, server_default=FetchedValue()), "literal default"),
    ("a system column", field(Integer, system=True), "system=True"),
    ("a key that is not the name", field(Integer, key="b"), "has key='b'"),
    ("a Postgres column name", lambda: make(key(), Column("xmin", Integer)), "one of Postgres' own"),
    ("equal names", lambda: make(key(), Column("a", Integer), Column("a", Integer)), "table boxes: .*'a'"),
    ("a long column name", lambda: make(key(), Column("c" * 64, Integer)), "64 bytes"),
    ("a column name of multi-byte letters", lambda: make(key(), Column("ü" * 32, Integer)), "64 bytes"),
    ("a column name with a dot", lambda: make(key(), Column("a.b", Integer)), r"holds '\.'"),
    ("a column name without quotes", lambda: make(key(), Column("A", Integer, quote=False)), "quote=False"),
    ("a long table name", named("n" * 64), "64 bytes"),
    ("a table name of multi-byte letters", named("ü" * 32), "64 bytes"),
    ("a table name without quotes", named(quoted_name("Boxes", quote=False)), "quote=False"),
    ("an empty name", named(""), "its name is empty"),
    ("None as name", named(None), "table None: its name is not a string"),
    *((f"a name with {sign!a}", named(f"a{sign}b"), "its name holds") for sign in STRANGE),
    ("a name that ends in a space", named("boxes "), "a space at its start or end"),
    (
        "another schema",
        lambda: entity_table("boxes", MetaData(schema="x"), key()),
        "must be in schema public",
    ),
    ("a plain table", lambda: shape_of(Table("plain", MetaData(), key())), "was not made by entity_table"),
]


REFUSED_PROJECTIONS: list[tuple[str, Callable[[], object], str]] = [
    (
        "a name too long for generations",
        lambda: projection_table("ü" * 26, MetaData(), key()),
        "more than 50",
    ),
    (
        "a foreign key",
        lambda: projection_table("p", MetaData(), key(), Column("a", String, ForeignKey("boxes.id"))),
        "projection p: has a foreign key",
    ),
]


@pytest.mark.parametrize(("act", "text"), [c[1:] for c in REFUSED_PROJECTIONS])
def test_a_projection_is_refused_with_the_reason(act: Callable[[], object], text: str) -> None:
    with pytest.raises(TableRefused, match=text):
        act()


def test_a_second_table_with_the_same_name_is_refused() -> None:
    metadata = MetaData()
    entity_table("boxes", metadata, key())
    with pytest.raises(TableRefused, match="table boxes: Table 'boxes' is already defined"):
        entity_table("boxes", metadata, key())
    assert list(metadata.tables) == ["boxes"]


def test_a_refused_table_is_not_left_in_the_metadata() -> None:
    metadata = MetaData()
    with pytest.raises(TableRefused):
        entity_table("boxes", metadata, key(), Column("a", Interval))
    assert not metadata.tables


SUPPORTED: dict[str, TypeEngine[Any]] = {
    "any text": String(),
    "long text": Text(),
    "text without case": CITEXT(),
    "text with a collation": String(collation="de-x-icu"),
    "an Enum of Postgres": Enum("a", "b", name="letters"),
    "an Enum as text": Enum("a", "b", native_enum=False),
    "a number": Numeric(12, 4),
    "any number": Numeric(),
    "a boolean": Boolean(create_constraint=True),
    "bytes": LargeBinary(),
    "a JSON document": JSONB(),
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_supported_type_is_accepted(name: str) -> None:
    assert shape_of(make(key(), Column("a", SUPPORTED[name]))).fields == ("a",)


def test_a_table_accepts_constraints_besides_columns() -> None:
    unique = UniqueConstraint("a", "b")
    table = make(key(), Column("a", Integer), Column("b", Integer), unique)
    assert unique in table.constraints
    projection = projection_table("p", MetaData(), key(), Column("a", Integer), UniqueConstraint("a"))
    assert shape_of(projection).projection


@pytest.mark.parametrize(("act", "text"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_table_is_refused_with_the_reason(act: Callable[[], object], text: str) -> None:
    with pytest.raises(TableRefused, match=text):
        act()
