"""Roles with the rights of `sluice grants`. Each process of a deployment uses the role of its purpose."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
from sqlalchemy.engine import make_url

from sluice.admin.grants import Role, grant_lines
from sluice.runtime.celery_options import EFFECTS_QUEUE, MAINTENANCE_QUEUE, REBUILD_QUEUE, RELAY_QUEUE
from sluice.runtime.schema_name import schema_of
from sluice.runtime.service_urls import DATABASE_URL
from sluice.stack.postgres_server import SUPERUSER
from sluice.testing.servers.processes import Child, Start
from tests.harness.raw_sql import connect

READING = (
    *("status", "workers", "doctor", "rebuild status", "dlq ls", "dlq show", "dlq export", "outbox ls"),
    *("effects ls", "effects show", "queue ls", "redis ls", "audit ls"),
)
"""Commands that only read. They run as the role `reader`, other commands as `operator`."""
OWNERS = ("init",)
"""Commands that the owner of the tables runs."""
PROCESSES = {
    "worker": Role.WORKER,
    "relay": Role.RELAY,
    "effects-worker": Role.EFFECTS,
    "rebuild-worker": Role.REBUILD,
    "bridge": Role.BRIDGE,
    "beat": Role.BEAT,
}
QUEUES = {
    RELAY_QUEUE: Role.RELAY,
    MAINTENANCE_QUEUE: Role.RELAY,
    EFFECTS_QUEUE: Role.EFFECTS,
    REBUILD_QUEUE: Role.REBUILD,
}

_numbers = itertools.count(1)


def role_of(module: str, words: Sequence[str]) -> Role | None:
    """Returns the role of `python -m module words…`; None for the owner of the tables. Pure."""
    if module == "sluice.bridge":
        return Role.BRIDGE
    if module == "celery":
        # The first words are -A and the application.
        verb, *rest = words[2:]
        if verb == "worker":
            queues = rest[rest.index("-Q") + 1].split(",") if "-Q" in rest else []
            return next((QUEUES[queue] for queue in queues if queue in QUEUES), Role.WORKER)
        return Role.BEAT if verb == "beat" else Role.READER
    command = " ".join(words)
    if command.startswith(OWNERS):
        return None
    return PROCESSES.get(words[0]) or (Role.READER if command.startswith(READING) else Role.OPERATOR)


class GrantedRoles:
    """Makes roles with least rights when they are first used. `close` drops them."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, Role], str] = {}

    def url_of(self, database_url: str, role: Role, *, owns: bool = False) -> str:
        """Returns the URL of this role, and makes the role if it is missing.

        The user of `database_url` is the owner of the tables. With `owns`, the role is a member of the owner.
        """
        url = make_url(database_url)
        name = self._made.get((database_url, role))
        if name is None:
            name = f"granted_{role.value}_{os.getpid()}_{next(_numbers)}"
            run_as_superuser(database_url, f"CREATE ROLE {name} LOGIN")
            self._made[database_url, role] = name
            run_script(database_url, "\n".join(grant_lines(role, name, schema_of(url))))
            if owns:
                run_as_superuser(database_url, f"GRANT {url.username} TO {name}")
        return url.set(username=name).render_as_string(hide_password=False)

    def close(self) -> None:
        """Drops the roles."""
        for (database_url, _), name in self._made.items():
            _drop(database_url, f"DROP OWNED BY {name}; DROP ROLE {name}")
        self._made.clear()


class GrantedStart:
    """Starts a process under the role of its purpose. It replaces the user in SLUICE_DATABASE_URL."""

    def __init__(self, start: Start, roles: GrantedRoles) -> None:
        self._start, self._roles = start, roles

    def __call__(
        self,
        module: str,
        words: Sequence[str],
        *,
        environ: Mapping[str, str],
        folder: Path,
        files: tuple[int, int, int],
    ) -> Child:
        """Starts `python -m module words…`."""
        # The providers of a test have no database.
        role = role_of(module, words) if DATABASE_URL in environ else None
        if role is not None:
            owned = self._roles.url_of(environ[DATABASE_URL], role, owns=role is Role.OPERATOR)
            environ = {**environ, DATABASE_URL: owned}
        return self._start(module, words, environ=environ, folder=folder, files=files)


@contextmanager
def owned_database(server_url: str) -> Iterator[str]:
    """Yields the URL of a new, empty database with the user that owns it and has no other right."""
    name = f"owned_{os.getpid()}_{next(_numbers)}"
    run_as_superuser(server_url, f"CREATE ROLE {name} LOGIN")
    run_as_superuser(server_url, f"CREATE DATABASE {name} OWNER {name}")
    try:
        yield make_url(server_url).set(database=name, username=name).render_as_string(hide_password=False)
    finally:
        _drop(server_url, f"DROP DATABASE {name} WITH (FORCE)")
        _drop(server_url, f"DROP ROLE {name}")


def _drop(database_url: str, script: str) -> None:
    # A test may leave its own Postgres stopped. The data folder of this Postgres is removed later.
    with suppress(psycopg2.OperationalError):
        run_as_superuser(database_url, script)


def refused_rights(folder: Path) -> list[str]:
    """Returns the lines of all logs below the folder in which Postgres refuses a right."""
    return [
        f"{log.name}: {line}"
        for log in sorted(folder.rglob("*.log"))
        for line in log.read_text(errors="replace").splitlines()
        if "permission denied" in line or "must be owner" in line
    ]


def run_as_superuser(database_url: str, script: str) -> None:
    """Runs statements as the superuser of the stack. Several statements are one transaction."""
    run_script(make_url(database_url).set(username=SUPERUSER).render_as_string(hide_password=False), script)


def run_script(database_url: str, script: str) -> None:
    """Runs statements as the user of the URL. Several statements are one transaction."""
    with closing(connect(database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(script)
