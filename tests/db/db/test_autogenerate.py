"""Alembic in a user project: autogenerate ignores the tables of Sluice, and its revisions can be applied."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Column, MetaData, Table, Text, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sluice.admin.init import create_tables
from sluice.db.migrations.migrate import upgrade
from sluice.db.schema import SCHEMA, metadata
from sluice.db.tables import has_shape
from sluice.runtime.database_url import without_own_options
from sluice.tables import include_object
from sluice.tasks.fold.registry import Registry
from tests.harness.raw_sql import make_engine

ENV = """
from alembic import context
from sqlalchemy import create_engine
from users_models import metadata
from sluice.tables import include_object

engine = create_engine(
    context.config.get_main_option("sqlalchemy.url"), connect_args={{"options": "-c search_path=public"}}
)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_object=include_object,
        include_schemas={include_schemas},
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""
MODELS = """
from sqlalchemy import *
from sqlalchemy.dialects.postgresql import JSONB
from sluice.tables import entity_table, projection_table

metadata = MetaData()
key = lambda: Column("id", String(64), primary_key=True)
entity_table(
    "orders",
    metadata,
    key(),
    Column("total", Numeric(12, 4), CheckConstraint("total >= 0", name="positive"), default=0),
    Column("any_number", Numeric),
    Column("count", BigInteger, nullable=False, default=0),
    Column("small", SmallInteger, index=True),
    Column("ratio", Float),
    Column("is_paid", Boolean, default=False),
    Column("placed_at", DateTime(timezone=True)),
    Column("day", Date),
    Column("reference", Uuid, unique=True),
    Column("photo", LargeBinary),
    Column("plain", JSON),
    Column("document", JSONB),
    Column("note", Text),
    Column("state", Enum("new", "paid", name="order_state")),
    Column("size", Enum("s", "xl", native_enum=False)),
    UniqueConstraint("small", "count"),
    merged=True,
    counters=("count",),
)
entity_table("Order lines", metadata, key(), Column("order_id", ForeignKey("orders.id"), index=True))
entity_table("queues", metadata, key(), versions="timestamp", deletable=True)
projection_table("revenue", metadata, key(), Column("amount", BigInteger, index=True))
Table("plain", metadata, Column("id", Integer, primary_key=True))
"""
COPIES = """
    CREATE TABLE public.revenue_g2 (LIKE public.revenue_g1 INCLUDING ALL);
    CREATE TABLE public.revenue_at_june (LIKE public.revenue_g1 INCLUDING ALL);
    CREATE TABLE public.forgotten_g3 (LIKE public.revenue_g1 INCLUDING ALL)
"""


@dataclass
class Project:
    """A user project with Alembic and the `env.py` of the documentation."""

    folder: Path
    database_url: str
    config: Config = field(init=False)

    def __post_init__(self) -> None:
        self.config = Config(self.folder / "alembic.ini", stdout=StringIO())
        self.config.set_main_option("script_location", str(self.folder / "migrations"))
        plain = without_own_options(make_url(self.database_url))
        self.config.set_main_option("sqlalchemy.url", plain.render_as_string(hide_password=False))
        command.init(self.config, str(self.folder / "migrations"))
        self.write_models(MODELS)

    def write_models(self, code: str) -> None:
        """Replaces the models with `code`."""
        sys.modules.pop("users_models", None)
        (self.folder / "users_models.py").write_text(code)
        # Python would use the compiled form of the old file if both files were written in the same second.
        (self.folder / "users_models.py").touch()

    def write_env(self, *, include_schemas: bool) -> None:
        """Writes `env.py`."""
        (self.folder / "migrations/env.py").write_text(ENV.format(include_schemas=include_schemas))

    def revision(self) -> str:
        """Returns the code of a revision that autogenerate writes."""
        script = command.revision(self.config, "change", autogenerate=True)
        code = Path(script.path).read_text()  # type: ignore[union-attr]
        compile(code, script.path, "exec")  # type: ignore[union-attr]
        return code

    def upgrade(self) -> None:
        """Runs `alembic upgrade head`."""
        command.upgrade(self.config, "head")

    def check(self) -> None:
        """Runs `alembic check`. Raises an error if a table differs from the models."""
        command.check(self.config)

    def init(self) -> tuple[list[str], list[str]]:
        """Runs the Postgres part of `sluice init`. Returns the tables and projections that it created."""
        import users_models  # type: ignore[import-not-found]

        models: MetaData = users_models.metadata
        tables = {table.name: table for table in models.tables.values() if has_shape(table)}
        upgrade(self.database_url)
        return create_tables(self.database_url, Registry(metadatas=[models], tables=tables))

    def run(self, statement: str) -> None:
        """Runs a statement as a superuser."""
        with make_engine(self.database_url, poolclass=NullPool).begin() as connection:
            connection.execute(text(statement))


@pytest.fixture
def project(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Project(tmp_path, database_url)
    sys.modules.pop("users_models", None)


def init_first(project: Project) -> None:
    assert project.init() == (["Order lines", "orders", "plain", "queues"], ["revenue"])
    code = project.revision()
    assert "op." not in code
    project.upgrade()


def alembic_first(project: Project) -> None:
    project.run("DROP SCHEMA sluice CASCADE")
    code = project.revision()
    assert code.count("op.create_table(") == 4
    assert "revenue" not in code
    project.upgrade()
    project.check()
    assert project.init() == ([], ["revenue"])


@pytest.mark.parametrize(("begin", "include_schemas"), [(init_first, True), (alembic_first, False)])
def test_autogenerate_ignores_the_tables_of_sluice(
    project: Project, begin: Callable[[Project], None], include_schemas: bool
) -> None:
    project.write_env(include_schemas=include_schemas)
    begin(project)
    project.check()
    project.run(COPIES)
    project.check()
    project.write_models(MODELS.replace('Column("note", Text),', 'Column("remark", Text, index=True),'))
    code = project.revision()
    steps = code.partition("def downgrade")[0].count("\n    op.")
    assert steps == 3, "a column and an index are added, a column is dropped"
    project.upgrade()
    project.check()
    assert project.init() == ([], [])


def test_a_user_table_that_is_no_longer_declared_is_dropped(project: Project) -> None:
    project.write_env(include_schemas=True)
    project.init()
    project.write_models(MODELS.replace('entity_table("queues"', 'entity_table("cues"'))
    code = project.revision().partition("def downgrade")[0]
    assert ("op.create_table('cues'" in code, "op.drop_table('queues'" in code) == (True, True)
    assert code.count("\n    op.") == 2


@pytest.mark.parametrize("name", sorted(table.name for table in metadata.tables.values()))
def test_tables_of_sluice_are_ignored_if_their_schema_is_the_default_schema(name: str) -> None:
    own = metadata.tables[f"{SCHEMA}.{name}"]
    found = Table(name, MetaData(), *(Column(column.name, column.type) for column in own.columns))
    assert not include_object(found, name, "table", True, None)


@pytest.mark.parametrize("named", [None, "billing"])
def test_tables_of_another_installation_are_ignored(
    named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `include_schemas`, Alembic finds the tables of all installations of the database."""
    monkeypatch.delenv("SLUICE_SCHEMA", raising=False)
    if named is not None:
        monkeypatch.setenv("SLUICE_SCHEMA", named)
    for own in metadata.tables.values():
        columns = (Column(column.name, column.type) for column in own.columns)
        found = Table(own.name, MetaData(schema="billing"), *columns)
        assert not include_object(found, own.name, "table", True, None)
    version = Table("alembic_version", MetaData(schema="billing"), Column("version_num", Text))
    assert not include_object(version, "alembic_version", "table", True, None)
    other = Table("baskets", MetaData(schema="billing"), Column("id", Text))
    assert include_object(other, "baskets", "table", True, None) is (named is None)
