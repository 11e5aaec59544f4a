"""`sluice init --sql` prints what `sluice init` would create, without a key."""

import subprocess
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from sluice.admin.init import create_tables, missing_sql
from sluice.db.connection import Session
from sluice.db.delivery.installation import create_installation, read_keys
from sluice.db.migrations.migrate import upgrade
from sluice.db.schema_text import in_schema
from sluice.db.tables import is_projection
from sluice.runtime.schema_name import schema_of
from sluice.stack.postgres_files import find_programs
from sluice.tasks.fold.registry import collect_handlers
from tests.harness.raw_sql import connect

HANDLERS = "examples.shop.handlers"


def _run(database_url: str, script: str) -> None:
    with closing(connect(database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(in_schema(script, schema_of(make_url(database_url))))


def _dump(database_url: str) -> str:
    url = make_url(database_url)
    words = ["-h", str(url.host), "-p", str(url.port), "-U", str(url.username), str(url.database)]
    program = find_programs().bin / "pg_dump"
    if not program.exists():
        pytest.skip("this Postgres has no pg_dump")
    dumped = subprocess.run([program, "--schema-only", *words], check=True, capture_output=True, text=True)
    # Newer versions begin and end a dump with a random word.
    return "\n".join(line for line in dumped.stdout.splitlines() if not line.startswith("\\"))


def test_the_printed_statements_create_the_same_objects_and_no_key(database_url: str) -> None:
    registry = collect_handlers(HANDLERS)
    create_tables(database_url, registry)
    expected = _dump(database_url)
    tables = [f"{name}_g1" if is_projection(table) else name for name, table in registry.tables.items()]
    _run(database_url, f"DROP SCHEMA sluice CASCADE; DROP TABLE {', '.join(tables)} CASCADE")
    script = missing_sql(database_url, registry)
    _run(database_url, script)
    assert _dump(database_url) == expected
    with closing(Session(database_url, application_name="test")) as session:
        assert read_keys(session) == ()
        assert create_installation(session, "sluice")
        assert len(read_keys(session)) == 1


def test_only_what_is_missing_is_printed(database_url: str) -> None:
    registry = collect_handlers(HANDLERS)
    upgrade(database_url)
    script = missing_sql(database_url, registry)
    assert "CREATE TABLE" in script
    assert "sluice." not in script
    create_tables(database_url, registry)
    assert missing_sql(database_url, registry) == ""
