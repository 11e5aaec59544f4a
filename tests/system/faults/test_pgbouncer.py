"""Processes behind PgBouncer in session mode: the time-outs of their sessions are in force."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from examples.shop.generate import generate
from tests.harness.pgbouncer import pgbouncer
from tests.harness.raw_sql import connect
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle
from tests.waiting import wait_until

TIMED_OUT = "canceling statement due to lock timeout"


@pytest.mark.all_rights("PgBouncer lists its users in a file")
def test_a_worker_waits_for_a_lock_until_its_time_out_and_repeats_the_batch(
    make_deployment: MakeDeployment, database_url: str, tmp_path: Path
) -> None:
    deployment = make_deployment()
    with (
        pgbouncer(database_url) as pooled,
        closing(connect(database_url)) as holder,
        replace(
            deployment.run,
            urls=replace(deployment.urls, database_url=pooled),
            folder=tmp_path / "pooled",
            processes=[],
        ) as run,
    ):
        with holder.cursor() as cursor:
            # No event can be applied, so none is set aside.
            cursor.execute("LOCK TABLE public.stock IN EXCLUSIVE MODE")
        run.start_bridge()
        worker = run.start_worker(deployment.queues("stock"))
        deployment.produce(generate("stock", count=100, seed=1))
        wait_until(
            lambda: worker.log.read_text().count(TIMED_OUT) > 1,
            timeout_seconds=60,
            what="two attempts end with the time-out",
        )
        assert deployment.outcomes() == {}
        holder.rollback()
        deployment.wait_settled()
        assert deployment.outcomes() == {"applied": 100}
        assert_equals_the_oracle(deployment)
        assert worker.exit_code is None
