"""Connections of a user's own program, to a database whose URL may have options of Sluice."""

from typing import Any

import psycopg2
import psycopg2.extensions
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url

from sluice.db.connection import Session
from sluice.db.schema_text import in_schema
from sluice.runtime.database_url import without_own_options
from sluice.runtime.schema_name import schema_of


def make_engine(database_url: str, **options: Any) -> Engine:
    """Returns an engine. The tests write its SQL for the schema `sluice`, as that of Sluice's sessions."""
    url = make_url(database_url)
    made = create_engine(without_own_options(url), **options)

    @event.listens_for(made, "before_cursor_execute", retval=True)
    def translate(_c: object, _cursor: object, sql: str, values: object, *_: object) -> tuple[str, object]:
        return in_schema(sql, schema_of(url)), values

    return made


def connect(database_url: str, **options: Any) -> psycopg2.extensions.connection:
    """Returns a connection of psycopg2."""
    plain = without_own_options(make_url(database_url)).set(drivername="postgresql")
    made: psycopg2.extensions.connection = psycopg2.connect(
        plain.render_as_string(hide_password=False), **options
    )
    return made


def cursor_of(session: Session) -> psycopg2.extensions.cursor:
    """Returns a cursor of a session. The tests write its SQL for the schema `sluice`, too."""

    class Translating(psycopg2.extensions.cursor):
        def execute(self, query: Any, values: Any = None) -> None:
            super().execute(in_schema(query, session.schema), values)

    return session.connection.cursor(cursor_factory=Translating)
