"""One Postgres connection with the session settings of Sluice and prepared statements."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from sqlalchemy.engine import URL, make_url

from sluice.db.connecting import open_connection
from sluice.db.errors import needs_new_connection
from sluice.db.schema_text import in_schema
from sluice.runtime.schema_name import schema_of

SESSION_SETTINGS = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    # Limits the time for which a client that is no longer reachable holds its locks, such as the lock of the
    # active beat.
    "tcp_keepalives_idle": "10s",
    "tcp_keepalives_interval": "5s",
    "tcp_keepalives_count": "3",
    # Postgres compiles a statement if it expects many rows. It expects too many of the walks over lanes, and
    # the compilation would take 0.3 s.
    "jit": "off",
}

# A batch is passed as one JSON document. The planner estimates 1 row for the document, and therefore chooses
# nested loops, whose time grows with the square of the number of rows. The planner also treats a table that
# has grown within seconds as empty. With these settings, only one plan remains: an index scan by key, with a
# hash join to the document. A bitmap scan reads all entries of a key and sorts them, so it would also read
# all versions that an old snapshot keeps. After an ANALYZE, the planner expects only the newest version.
BATCH_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_nestloop": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}

# For tables that are used as queues. They may be full of dead rows, or were empty at the last ANALYZE. Only
# an ordered index scan reads no more rows than requested.
QUEUE_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}


@dataclass(frozen=True)
class Statement:
    """A statement, which is prepared once per connection.

    `text` has parameters `$1`…, of the types in `types`. It is written for the schema `sluice`; a session
    prepares it for its own schema.
    """

    name: str
    text: str
    types: tuple[str, ...] = ()


class Session:
    """A connection to Postgres. Not thread-safe. After `close`, the next use connects again."""

    def __init__(
        self,
        database_url: str | URL,
        *,
        application_name: str,
        plans: Mapping[str, str] = MappingProxyType({}),
        settings: Mapping[str, str] = MappingProxyType({}),
        may_be_read_only: bool = False,
    ) -> None:
        """Stores the options. The connection is opened at the first use.

        `plans` is BATCH_PLANS or QUEUE_PLANS if the planner's own choice is unreliable. `settings` are
        further settings of the session. With `may_be_read_only`, a standby or a server that refuses writes is
        accepted if there is no primary. The URL names the schema of the installation. Raises SchemaRefused.
        """
        self._url = make_url(database_url)
        self.schema = schema_of(self._url)
        self._application_name = application_name
        self._may_be_read_only = may_be_read_only
        self._settings = {**SESSION_SETTINGS, **plans, **settings}
        self._connection: psycopg2.extensions.connection | None = None
        self._prepared: set[str] = set()
        self._deferred: list[bytes] = []

    @property
    def connection(self) -> psycopg2.extensions.connection:
        """Returns the connection, which is opened at the first use. Raises ConnectFailed."""
        if self._connection is None or self._connection.closed:
            self._prepared = set()
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> psycopg2.extensions.connection:
        connection = open_connection(
            self._url,
            settings=self._settings,
            application_name=self._application_name,
            may_be_read_only=self._may_be_read_only,
        )
        # This class sends BEGIN and COMMIT itself, so that BEGIN shares the first statement's round trip.
        connection.autocommit = True
        psycopg2.extras.register_uuid(conn_or_curs=connection)  # type: ignore[no-untyped-call]
        return connection

    def another(self, application_name: str) -> "Session":
        """Returns another session on the same database, for short reads."""
        return Session(self._url, application_name=application_name, may_be_read_only=self._may_be_read_only)

    def close(self) -> None:
        """Closes the connection. The next use opens a new one. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def run(self, statement: Statement, *values: Any) -> list[tuple[Any, ...]]:
        """Runs a prepared statement and returns its rows."""
        with self._executed(statement, values) as cursor:
            return cursor.fetchall() if cursor.description else []

    def count(self, statement: Statement, *values: Any) -> int:
        """Runs a prepared statement and returns the number of changed rows."""
        with self._executed(statement, values) as cursor:
            return int(cursor.rowcount)

    def command(self, text: str) -> None:
        """Runs a command without parameters. Its text is written for the schema `sluice`."""
        self.users_command(in_schema(text, self.schema))

    def users_command(self, text: str) -> None:
        """Runs a command of a user unchanged: the schema `sluice` in its text means this very schema."""
        with self.connection.cursor() as cursor:
            cursor.execute(self._with_deferred(text.encode()))

    def defer(self, text: str) -> None:
        """Adds a command that runs before the next statement, in its round trip."""
        self._deferred.append(in_schema(text, self.schema).encode())

    def defer_statement(self, statement: Statement, *values: Any) -> None:
        """Adds a prepared statement whose result is not needed. It runs as a command of `defer` does."""
        with self.connection.cursor() as cursor:
            self._prepare(cursor, statement)
            self._deferred.append(cursor.mogrify(_execute(statement, values), values or None))

    @contextmanager
    def transaction(self, mode: str = "") -> Iterator[None]:
        """Runs the block in a transaction. Any exception, even of COMMIT, rolls the transaction back.

        BEGIN is sent together with the first statement. If the block runs no statement, nothing is sent.
        """
        begin = f"BEGIN {mode}"
        self.defer(begin)
        try:
            yield
            if self._deferred == [begin.encode()]:
                self._deferred.clear()
            else:
                self.command("COMMIT")
        except BaseException:
            self.roll_back()
            raise

    def restore_limits(self) -> None:
        """Gives the open transaction the time-outs of the session again, after `SET LOCAL` of shorter ones.

        `SET LOCAL … TO DEFAULT` would set the values of the server, the database or the role, because the
        time-outs of a session are set after the connect.
        """
        limits = ("statement_timeout", "lock_timeout")
        self.command("; ".join(f"SET LOCAL {name} = '{self._settings[name]}'" for name in limits))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Runs the block in a savepoint with deferred constraints. Any exception rolls back to the savepoint.

        Savepoints may be nested. An exception that ends the connection rolls back the whole transaction.
        """
        self.defer("SAVEPOINT part; SET CONSTRAINTS ALL DEFERRED")
        try:
            yield
            self.command("RELEASE SAVEPOINT part")
        except Exception as error:
            if not needs_new_connection(error):
                self.command("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part")
            raise

    def roll_back(self) -> None:
        """Rolls back the transaction. Closes the connection if this fails."""
        self._deferred.clear()
        if self._connection is None or self._connection.closed:
            self.close()
            return
        try:
            self.command("ROLLBACK")
        except psycopg2.Error:
            self.close()

    @contextmanager
    def _executed(self, statement: Statement, values: Sequence[Any]) -> Iterator[psycopg2.extensions.cursor]:
        with self.connection.cursor() as cursor:
            self._prepare(cursor, statement)
            text = _execute(statement, values)
            if self._deferred:
                # The deferred commands may hold any character, also "%".
                cursor.execute(self._with_deferred(cursor.mogrify(text, values or None)))
            else:
                cursor.execute(text, values or None)
            yield cursor

    def _prepare(self, cursor: psycopg2.extensions.cursor, statement: Statement) -> None:
        if statement.name not in self._prepared:
            types = f"({', '.join(statement.types)})" if statement.types else ""
            # ROLLBACK does not undo PREPARE: a prepared statement belongs to the session.
            text = f'PREPARE "{statement.name}" {types} AS {in_schema(statement.text, self.schema)}'
            cursor.execute(self._with_deferred(text.encode()))
            self._prepared.add(statement.name)

    def _with_deferred(self, text: bytes) -> bytes:
        if not self._deferred:
            return text
        text = b"; ".join([*self._deferred, text])
        self._deferred.clear()
        return text


class Reconnects:
    """Notices that a session has connected again.

    The new connection may lead to a server with an older state, for example a standby that was promoted. What
    the process remembers of Postgres may then be wrong.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: psycopg2.extensions.connection | None = None

    def note(self) -> bool:
        """Returns True if the session has another connection than at the last call. Connects if needed."""
        connection = self._session.connection
        is_new, self._seen = connection is not self._seen, connection
        return is_new


def _execute(statement: Statement, values: Sequence[Any]) -> str:
    places = f"({', '.join(['%s'] * len(values))})" if values else ""
    return f'EXECUTE "{statement.name}" {places}'
