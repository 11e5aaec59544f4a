"""A rebuild on real services with faults: the new generation equals the oracle."""

import pytest

from examples.shop.tables import billing_line_items
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle
from tests.system.tasks.rebuilding import (
    PROJECTION,
    lines_of,
    payments,
    readers,
    right_line,
    sluice,
    sluice_fails,
    wait_ready,
    with_old_lines,
    wrong_line,
)

OLD = 2_000  # The number of lines with the wrong tax.
WHY = ("--reason", "the tax was wrong")


def test_a_rebuild_corrects_the_wrong_tax_while_payments_continue(make_deployment: MakeDeployment) -> None:
    deployment = with_old_lines(make_deployment, OLD)
    deployment.run.start_rebuilds()
    deployment.run.start_rebuilds()
    with readers(deployment, 200) as looking:
        assert sluice(deployment, "plan", PROJECTION)["records"] == OLD
        assert sluice(deployment, "start", PROJECTION, *WHY, "--no-wait")["generation"] == 2
        deployment.produce(payments(OLD, 500))
        wait_ready(deployment, 2)
        deployment.produce(payments(OLD + 500, 500))
        deployment.wait_settled()
        code, said = sluice_fails(deployment, "swap", PROJECTION, *WHY, "--yes")
        assert (code, "it was never compared" in said) == (2, True), said
        report = sluice(deployment, "diff", PROJECTION)
        assert report["rows"] == {"same": 1_000, "only_live": 0, "only_new": 0, "differing": OLD}
        assert {sample["key"] for sample in report["samples"]["differing"]} <= {
            f"pay-{n}" for n in range(OLD)
        }
        assert int(report["columns"]["tax_cents"]["sum_new"]) == sum(
            int(right_line(n)["tax_cents"]) for n in range(OLD + 1_000)
        )
        code, said = sluice_fails(deployment, "swap", PROJECTION, *WHY, "--yes")
        assert (code, "is not approved" in said) == (2, True), said
        sluice(deployment, "approve", PROJECTION, *WHY, "--yes")
        sluice(deployment, "swap", PROJECTION, *WHY, "--yes")
        assert_equals_the_oracle(deployment)
        deployment.produce(payments(OLD + 1_000, 500))
        deployment.wait_settled()
        sluice(deployment, "swap", PROJECTION, "--back", *WHY, "--yes")
    assert looking.seen == ["wrong", "right", "wrong"]
    assert looking.looks > 50
    everything = range(OLD + 1_500)
    assert lines_of(deployment, 1) == {
        f"pay-{n}": wrong_line(n) if n < OLD else right_line(n) for n in everything
    }
    assert lines_of(deployment, 2) == {f"pay-{n}": right_line(n) for n in everything}
    sluice(deployment, "drop", PROJECTION, "--generation", "2", *WHY, "--yes")
    assert [one["state"] for one in sluice(deployment, "status", PROJECTION)] == ["live"]


@pytest.mark.matrix
@pytest.mark.unforked
def test_rebuild_workers_killed_in_a_chunk_lose_nothing(make_deployment: MakeDeployment) -> None:
    deployment = with_old_lines(make_deployment, OLD)
    sluice(deployment, "start", PROJECTION, *WHY, "--no-wait")
    for turn, point in enumerate(("rebuild.before_commit:3", "rebuild.committed:3")):
        doomed = deployment.run.start_rebuilds(name="doomed", faults=f"{point}:kill")
        deployment.produce(payments(OLD + turn * 250, 250))
        wait_killed(deployment, doomed, point)
    deployment.run.start_rebuilds()
    wait_ready(deployment, 2)
    deployment.wait_settled()
    assert lines_of(deployment, 2) == {f"pay-{n}": right_line(n) for n in range(OLD + 500)}


def test_a_swap_killed_at_any_point_is_done_completely_or_not_at_all(make_deployment: MakeDeployment) -> None:
    deployment = with_old_lines(make_deployment, OLD)
    deployment.run.start_rebuilds()
    sluice(deployment, "start", PROJECTION, *WHY, "--no-wait")
    wait_ready(deployment, 2)
    sluice(deployment, "diff", PROJECTION)
    sluice(deployment, "approve", PROJECTION, *WHY, "--yes")
    words = ("swap", PROJECTION, *WHY, "--yes")
    for turn, (point, states) in enumerate(
        (
            ("swap.before", {1: "live", 2: "ready"}),
            ("swap.before_commit", {1: "live", 2: "ready"}),
            ("swap.committed", {1: "retired", 2: "live"}),
        )
    ):
        assert sluice_fails(deployment, *words, faults=f"{point}:1:kill")[0] == -9
        deployment.produce(payments(OLD + turn * 100, 100))
        deployment.wait_settled()
        assert {one["generation"]: one["state"] for one in sluice(deployment, "status", PROJECTION)} == states
    assert "none is ready" in sluice_fails(deployment, *words)[1]
    assert deployment.rows(billing_line_items) == {f"pay-{n}": right_line(n) for n in range(OLD + 300)}
    assert_equals_the_oracle(deployment)


@pytest.mark.matrix
def test_bridges_and_workers_killed_during_a_rebuild_lose_nothing(make_deployment: MakeDeployment) -> None:
    deployment = with_old_lines(make_deployment, OLD)
    deployment.run.start_rebuilds()
    sluice(deployment, "start", PROJECTION, *WHY, "--no-wait")
    wait_ready(deployment, 2)
    # From here on, only one worker runs at a time. If two ran, the other worker could take the batches of the
    # worker that is to be killed.
    for worker in [process for process in deployment.run.processes if process.name == "worker"]:
        worker.stop()
    for turn, point in enumerate(("apply.before_commit:2", "apply.committed:2", "apply.begun:2")):
        doomed = deployment.run.start_worker(deployment.queues(), name="doomed", faults=f"{point}:kill")
        bridge = next(p for p in reversed(deployment.run.processes) if p.name == "bridge")
        deployment.produce(payments(OLD + turn * 500, 500))
        bridge.kill()
        deployment.run.start_bridge()
        deployment.produce(payments(OLD + 1_500 + turn * 500, 500))
        wait_killed(deployment, doomed, point)
    deployment.run.start_worker(deployment.queues(), name="next")
    deployment.wait_settled()
    wait_ready(deployment, 2)
    assert lines_of(deployment, 2) == {f"pay-{n}": right_line(n) for n in range(OLD + 3_000)}
    assert_old_lines_are_wrong_and_new_lines_right(deployment)


def wait_killed(deployment: Deployment, doomed: RunningProcess, point: str) -> None:
    """Waits until the fault point has killed the process."""
    deployment.wait_until(lambda: doomed.exit_code == -9, timeout_seconds=60, what=f"killed at {point}")


def assert_old_lines_are_wrong_and_new_lines_right(deployment: Deployment) -> None:
    """Asserts that old lines of the live generation have the wrong tax, and new lines the right tax."""
    lines = deployment.rows(billing_line_items)
    assert {n: line for n, line in lines.items() if int(n[4:]) >= OLD} == {
        f"pay-{n}": right_line(n) for n in range(OLD, OLD + 3_000)
    }
    assert {n: line for n, line in lines.items() if int(n[4:]) < OLD} == {
        f"pay-{n}": wrong_line(n) for n in range(OLD)
    }
