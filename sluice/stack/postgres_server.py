"""A Postgres for tests and demos, with full durability and many connections."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from typing import Any

import psycopg2
import psycopg2.extensions
from psycopg2 import sql

from sluice.stack.atomic_folders import made_whole
from sluice.stack.patience import patient
from sluice.stack.ports import LOOPBACK
from sluice.stack.postgres_files import (
    Programs,
    can_reach,
    find_programs,
    give_to,
    reachable_folder,
    reachable_programs,
    server_user,
)
from sluice.stack.processes import group_of
from sluice.stack.service import Launch, Place, Report, ServiceName, StackError, StopSignal

# This must not be the name of a schema: "$user" is first in the search path, so users' tables would be
# created in that schema.
SUPERUSER = "app"
FORMER_SUPERUSER = "sluice"  # the superuser in data that an earlier version of the stack created
RENAMING_USER = "app_renaming"
DATABASE = "sluice"
ANSWER_TIMEOUT_SECONDS = 2
INITDB_TIMEOUT_SECONDS = 120

SETTINGS = {
    "listen_addresses": LOOPBACK,
    # No socket file is used, because it would need a short path that the server's user may write.
    "unix_socket_directories": "",
    "max_connections": "200",
    "max_prepared_transactions": "20",
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "max_wal_size": "4GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresServer:
    """One Postgres with the superuser `app` and the database `sluice`.

    Needs no password from the loopback address.
    """

    name: ServiceName = "postgres"
    port_names: tuple[str, ...] = ("postgres",)
    ready_timeout_seconds = 60.0
    silence_timeout_seconds = 15.0

    def choose_data(self, home: Path) -> Path:
        user = server_user()
        if user is None or can_reach(user, home):
            return home / "data"
        return reachable_folder(user) / "data"

    def prepare(self, place: Place, report: Report) -> None:
        user = server_user()
        if not place.data.is_dir():
            report("creating Postgres' data")
            with made_whole(place.data) as part:
                self._init(place, part, user)
        self._complete(place.data)
        give_to(user, place.data)

    def _complete(self, data: Path) -> None:
        """Writes the files that the server needs beside the data of initdb. Idempotent."""

    def _init(self, place: Place, part: Path, user: str | None) -> None:
        give_to(user, part)
        initdb = str(self._programs(place).bin / "initdb")
        # The C locale gives the same order on every machine, and is the fastest.
        options = ["-U", SUPERUSER, "--encoding=UTF8", "--locale=C", *self._authentication(place)]
        done = subprocess.run(
            [initdb, "-D", str(part), *options],
            capture_output=True,
            text=True,
            timeout=patient(INITDB_TIMEOUT_SECONDS),
            cwd="/",
            check=False,
            user=user,
            group=None if user is None else group_of(user),
            extra_groups=None if user is None else [],
        )
        if done.returncode:
            raise StackError(f"Postgres' data could not be created:\n{done.stdout}{done.stderr}")

    def _authentication(self, _: Place) -> Sequence[str]:
        """Returns the options of initdb for the login."""
        return ("--auth=trust",)

    def _login(self) -> Mapping[str, Any]:
        """Returns the options of libpq with which the stack's commands log in."""
        return {}

    def _settings(self, place: Place) -> Mapping[str, str]:
        return {**SETTINGS, "port": str(place.ports["postgres"])}

    def _programs(self, place: Place) -> Programs:
        stamp = place.data / "PG_VERSION"
        version = int(stamp.read_text()) if stamp.exists() else None
        return reachable_programs(find_programs(version), server_user(), place.data.parent)

    def launch(self, place: Place) -> Launch:
        options = (
            text for name, value in self._settings(place).items() for text in ("-c", f"{name}={value}")
        )
        server = str(self._programs(place).bin / "postgres")
        return Launch((server, "-D", str(place.data), *options), os.environ, server_user())

    def answers(self, place: Place) -> bool:
        try:
            create_database(place.ports["postgres"], DATABASE, self._login())
        except psycopg2.OperationalError:
            return False
        return True

    def stop_signal(self, how: StopSignal) -> Signals:
        # SIGINT, because the "smart" shutdown of SIGTERM would wait for clients that never disconnect.
        return {"term": Signals.SIGINT, "immediate": Signals.SIGQUIT, "kill": Signals.SIGKILL}[how]


def create_database(port: int, name: str, login: Mapping[str, Any]) -> None:
    """Creates the database if it is missing. Raises psycopg2.OperationalError if no server answers."""
    with _cursor(port, _superuser_of(port, login), login) as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _superuser_of(port: int, login: Mapping[str, Any]) -> str:
    """Returns SUPERUSER. In data of an earlier version, the superuser is FORMER_SUPERUSER.

    This role is renamed first, so all objects keep their owner. Afterwards a new role with the former name
    exists, for URLs that were printed before. Its search path does not contain a schema of its own name.
    Idempotent, even after an interruption.
    """
    try:
        with _cursor(port, SUPERUSER, login):
            return SUPERUSER
    except psycopg2.OperationalError as error:
        if f'role "{SUPERUSER}" does not exist' not in str(error):
            raise
    # A session cannot rename its own role, so another role does it.
    with _cursor(port, FORMER_SUPERUSER, login) as cursor:
        cursor.execute(f"DROP ROLE IF EXISTS {RENAMING_USER}; CREATE ROLE {RENAMING_USER} SUPERUSER LOGIN")
    with _cursor(port, RENAMING_USER, login) as cursor:
        cursor.execute(
            f"BEGIN; ALTER ROLE {FORMER_SUPERUSER} RENAME TO {SUPERUSER};"
            f" CREATE ROLE {FORMER_SUPERUSER} SUPERUSER LOGIN;"
            f" ALTER ROLE {FORMER_SUPERUSER} SET search_path = public; COMMIT"
        )
    with _cursor(port, SUPERUSER, login) as cursor:
        cursor.execute(f"DROP ROLE {RENAMING_USER}")
    return SUPERUSER


@contextmanager
def _cursor(port: int, user: str, login: Mapping[str, Any]) -> Iterator[psycopg2.extensions.cursor]:
    connection = psycopg2.connect(
        host=LOOPBACK,
        port=port,
        user=user,
        dbname="postgres",
        connect_timeout=ANSWER_TIMEOUT_SECONDS,
        **login,
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()
