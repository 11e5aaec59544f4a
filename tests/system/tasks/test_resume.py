"""On real services, only the projection with a broken table stops. Later, it catches up from the log."""

import pytest

from examples.shop.tables import billing_line_items
from sluice.db.connection import Statement
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle
from tests.system.tasks.rebuilding import PROJECTION, payments, sluice, start_live

HALTED = Statement("read_halted_queues", "SELECT queue FROM sluice.queues WHERE halted_reason IS NOT NULL")
LINES = 200
WHY = ("--reason", "the table was renamed")


@pytest.mark.matrix
def test_a_stopped_projection_is_resumed_from_the_log_while_payments_continue(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment("examples.shop.handlers")
    start_live(deployment)
    deployment.produce(payments(0, LINES))
    deployment.wait_settled()
    deployment.session.command(f"ALTER TABLE public.{PROJECTION}_g1 RENAME TO away")
    deployment.produce(payments(LINES, LINES))
    deployment.wait_settled()
    [live] = sluice(deployment, "status", PROJECTION)
    assert (live["state"], f"{PROJECTION}_g1" in live["failed_reason"]) == ("stopped", True)
    said = deployment.run.sluice("doctor").stdout.decode()
    assert f"Generation 1 of {PROJECTION} is stopped, and its table {PROJECTION}_g1 does not exist" in said
    assert deployment.session.run(HALTED) == []

    deployment.session.command(f"ALTER TABLE public.away RENAME TO {PROJECTION}_g1")
    deployment.run.start_rebuilds()
    deployment.produce(payments(2 * LINES, LINES))
    sluice(deployment, "resume", PROJECTION, *WHY)
    deployment.produce(payments(3 * LINES, LINES))
    deployment.wait_until(
        lambda: [one["state"] for one in sluice(deployment, "status", PROJECTION)] == ["live"],
        timeout_seconds=60,
        what="the generation is live again",
    )
    deployment.produce(payments(4 * LINES, LINES))
    deployment.wait_settled()
    assert len(deployment.rows(billing_line_items)) == 5 * LINES
    assert_equals_the_oracle(deployment)
