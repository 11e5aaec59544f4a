"""The sessions that a swap waits for, and the refusals that name a session which holds a lock."""

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from sluice.admin.decisions import OperationRefused
from sluice.db.projections.snapshots import read_snapshots
from tests.db.tasks import projecting, reading
from tests.db.tasks.applying import thing_set
from tests.db.tasks.projecting import Bench
from tests.db.tasks.reading import RR, Reader, fill
from tests.waiting import wait_until

bench = projecting.bench
opened = projecting.opened
open_reader = reading.open_reader


def test_a_swap_does_not_wait_for_a_vacuum(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    bench.live(thing_set(0, "a", 1))
    vacuum = open_reader()
    vacuum.run("CREATE TABLE public.big AS SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) n")
    vacuum.run("DELETE FROM public.big; SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
    pid = vacuum.pid

    def run() -> None:
        with pytest.raises(psycopg2.errors.QueryCanceled):
            vacuum.run("VACUUM public.big")

    running = threading.Thread(target=run)
    running.start()
    wait_until(
        lambda: bench.look(f"SELECT pid FROM pg_stat_progress_vacuum WHERE pid = {pid}"),
        timeout_seconds=10,
        what="the vacuum runs",
    )
    fixed, number = fill(bench, opened)
    fixed.swap(number)
    assert bench.look(f"SELECT pg_cancel_backend({pid})") == [(True,)]
    running.join()


def test_a_role_without_rights_sees_other_snapshots_without_their_age_and_query(
    bench: Bench, open_reader: Callable[..., Reader]
) -> None:
    reader = open_reader()
    reader.run(f"{RR}; SELECT 'a secret'")
    role = f"plain_{bench.look('SELECT current_database()')[0][0]}"
    with closing(bench.session.another("test plain")) as session:
        session.command(f"CREATE ROLE {role}; SET ROLE {role}")
        (found,) = [one for one in read_snapshots(session) if one.holder.pid == reader.pid]
        assert found.holder[1:] == ("app", "report", None, None)
        session.command(f"RESET ROLE; DROP ROLE {role}")


def test_a_refused_swap_names_the_session_that_locks_the_view(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    bench.live(thing_set(0, "a", 1))
    fixed, number = fill(bench, opened)
    reader = open_reader()
    reader.run("BEGIN; SELECT FROM public.totals")
    with pytest.raises(OperationRefused, match=f"for too long: pid {reader.pid} "):
        fixed.swap(number)
    name = f"held in {bench.look('SELECT current_database()')[0][0]}"
    reader.run(f"PREPARE TRANSACTION '{name}'")
    with pytest.raises(OperationRefused, match=f"for too long: prepared transaction '{name}'"):
        fixed.swap(number)
    reader.run(f"ROLLBACK PREPARED '{name}'")
    fixed.swap(number)
