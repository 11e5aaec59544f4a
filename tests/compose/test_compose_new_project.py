"""A project that `sluice new` has made runs in a container engine."""

import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from sluice.stack.ports import LOOPBACK
from tests.compose.project import ComposeProject, wiped
from tests.compose.steps import LOOK_SECONDS, PASSWORD, timed, wait_healthy
from tests.waiting import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1_800)]

APPLIED_SECONDS = 60.0


def test_a_new_project_applies_its_events_in_containers(project: ComposeProject, tmp_path: Path) -> None:
    folder = tmp_path / "my-shop"
    subprocess.run([sys.executable, "-m", "sluice.cli.main", "new", str(folder)], check=True)
    mine = replace(project, folder=folder, env_files=(folder / ".env", *project.env_files))
    with wiped(mine):
        timed("up, with the image built", lambda: mine.up("--build"))
        timed("healthy after that", lambda: wait_healthy(mine))
        mine.run("migrate", "sluice", "send", "-", given=(folder / "events.jsonl").read_text())
        wait_until(
            lambda: read_status(mine, "o-1") == "SHIPPED by ACME",
            timeout_seconds=APPLIED_SECONDS,
            what="the order of the events is shipped",
            poll_seconds=LOOK_SECONDS,
        )


def read_status(project: ComposeProject, order_id: str) -> str | None:
    """Returns the status of the order, or None if the table has no such order."""
    port = project.environment["POSTGRES_PORT"]
    opened = psycopg2.connect(host=LOOPBACK, port=port, user="app", password=PASSWORD, dbname="app")
    with closing(opened), opened.cursor() as cursor:
        cursor.execute("SELECT status FROM orders WHERE order_id = %s", (order_id,))
        found = cursor.fetchone()
    return found[0] if found else None
