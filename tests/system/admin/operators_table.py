"""The table of situations in docs/operating.md, and a deployment in which tests simulate the situations."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2
from kafka.admin import KafkaAdminClient
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from examples.shop.generate import OutgoingRecord
from sluice.cli.main import app
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness.processes import PROJECT
from tests.system.serving import wait_alive
from tests.waiting import wait_until

HEADING = "## Situations and cures"
GREEN = "no problem found"
PATIENCE = "0.3"


class Row(NamedTuple):
    """One situation: the lines that the commands print, and the cure. "…" stands for any text."""

    situation: str
    status: str
    doctor: str
    cure: str


def read_table() -> dict[str, Row]:
    """Returns situation → row of the table in the documentation."""
    text = (PROJECT / "docs" / "operating.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    rows = [Row(*(cell.strip() for cell in line.strip("|").split(" | "))) for line in lines]
    return {row.situation: row for row in rows}


def has_line(pattern: str, lines: list[str]) -> bool:
    """Returns True if a line matches the pattern of the table."""
    expected = re.compile(".*".join(map(re.escape, pattern.split("…"))))
    return any(expected.fullmatch(line.strip()) for line in lines)


@dataclass
class RunningDeployment:
    """A deployment with one process of each kind, and methods that run the operator's commands."""

    deployment: Deployment
    processes: dict[str, RunningProcess] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    """Additional environment of the commands. Some situations are caused by the settings of the commands."""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def folder(self) -> Path:
        return self.deployment.run.folder

    def start(self, *kinds: str) -> None:
        """Starts processes. Waits for their heartbeats, except for the heartbeat of the worker."""
        run = self.deployment.run
        starts = {
            "bridge": run.start_bridge,
            "worker": run.start_worker,
            "relay": run.start_relay,
            "effects": run.start_effects,
            "rebuild": run.start_rebuilds,
            "beat": run.start_beat,
        }
        for kind in kinds:
            self.processes[kind] = starts[kind]()
        wait_alive(self.deployment, *(self.processes[kind] for kind in kinds if kind != "worker"))

    def stop(self, kind: str) -> None:
        self.processes.pop(kind).stop()

    def sluice(self, *words: str) -> list[str]:
        """Runs a command in this process. Returns the lines that the command printed."""
        environ = self.deployment.run.environ() | {"COLUMNS": "1000"} | self.environ
        result = CliRunner().invoke(app, words, env=environ)
        assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return [line.rstrip() for line in result.output.splitlines()]

    def status(self) -> list[str]:
        return self.sluice("status", "--patience", PATIENCE)

    def doctor(self) -> list[str]:
        return self.sluice("doctor", "--patience", PATIENCE)

    def produce(self, *keys: str, **data: Any) -> None:
        """Produces one event for each key. Without keys, produces one event for a new key."""
        records = []
        for key in keys or (f"thing-{next(self.numbers)}",):
            number = next(self.numbers)
            value = {
                "event_id": f"e-{number}",
                "type": "thing.set",
                "version": number,
                "data": {"number": number, **data},
            }
            records.append(OutgoingRecord("things", key, value))
        self.deployment.produce(records)

    def set_wrong(self, what: str) -> None:
        (self.folder / what).touch()

    def set_right(self, what: str) -> None:
        (self.folder / what).unlink()

    def ask(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Runs a statement as the administrator of the server. Returns the rows of the result."""
        url = make_url(self.deployment.urls.database_url)
        with closing(_connect(url.set(database=database or url.database), "admin")) as connection:
            return run_on(connection, statement)

    def open_psql(self, *statements: str) -> psycopg2.extensions.connection:
        """Opens the session of another program, `psql`, and runs statements on it."""
        connection = _connect(make_url(self.deployment.urls.database_url), "psql")
        for statement in statements:
            run_on(connection, statement)
        return connection

    def create_topic(self, name: str) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.deployment.urls.kafka_bootstrap_servers)
        with closing(admin):
            admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}})

    def assert_printed(self, row: Row) -> None:
        """Waits until `status` and `doctor` print their lines of the table, and `doctor` prints the cure."""

        def is_printed() -> bool:
            print(*(lines := self.status()), sep="\n")
            return has_line(row.status, lines)

        wait_until(is_printed, timeout_seconds=60, what=f"status: {row.status}")

        def is_found() -> bool:
            lines = self.doctor()
            cures = [after for line, after in pairwise(lines) if has_line(row.doctor, [line])]
            print(*lines, sep="\n")
            return bool(cures) and has_line(row.cure, cures)

        wait_until(is_found, timeout_seconds=60, what=f"doctor: {row.doctor} {row.cure}")

    def assert_cured(self, row: Row, environ: Mapping[str, str]) -> None:
        """Waits until `doctor` no longer prints the finding.

        After that, waits until `doctor` with the settings of the deployment finds no problem.
        """

        def is_gone() -> bool:
            print(*(lines := self.doctor()), sep="\n")
            return not has_line(row.doctor, lines) and (bool(self.environ) or GREEN in lines)

        for self.environ in ([dict(environ)] if environ else []) + [{}]:
            wait_until(is_gone, timeout_seconds=60, what=f"doctor without: {row.doctor}")


def _connect(url: Any, application_name: str) -> psycopg2.extensions.connection:
    connection = psycopg2.connect(
        host=url.host,
        port=url.port,
        user=url.username,
        dbname=url.database,
        application_name=application_name,
    )
    connection.autocommit = True
    return connection


def run_on(connection: psycopg2.extensions.connection, statement: str) -> list[tuple[Any, ...]]:
    """Runs a statement and returns its rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
