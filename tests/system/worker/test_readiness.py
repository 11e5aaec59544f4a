"""Every kind of process serves /healthz and /readyz. An outage makes it unready; a restart would not help."""

import pytest

from sluice.db.delivery.leases import read_workers
from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.scraping import ask_health
from tests.system.conftest import MakeDeployment

OK = (200, "ok\n")


def wait_ready(deployment: Deployment, processes: list[RunningProcess], answer: tuple[int, str]) -> None:
    for process in processes:
        deployment.wait_until(
            lambda process=process: ask_health(process.metrics_port, "/readyz") == answer,  # type: ignore[misc]
            timeout_seconds=60,
            what=f"{process.name} answers {answer}",
        )


def start_all_kinds(deployment: Deployment) -> list[RunningProcess]:
    run = deployment.run
    run.with_metrics = True
    return [
        run.start_bridge(name="bridge"),
        run.start_worker(name="worker"),
        run.start_relay(),
        run.start_effects(),
        run.start_rebuilds(),
        run.start_beat(),
        # There is one partition and one queue, so a bridge and a worker are left over. They are ready.
        run.start_bridge(name="spare-bridge"),
        run.start_worker(name="spare-worker"),
    ]


@pytest.mark.matrix
@pytest.mark.own("redis")
def test_each_kind_of_process_is_ready_while_its_servers_answer(
    make_deployment: MakeDeployment, own_stack: Stack
) -> None:
    deployment = make_deployment("tests.system.worker.sharing_app", partitions=1, shards=1)
    processes = start_all_kinds(deployment)
    wait_ready(deployment, processes, OK)
    assert len(set(read_workers(deployment.session).holders().values())) == 1
    own_stack.stop("redis")
    wait_ready(deployment, processes, (503, "Redis does not answer\n"))
    assert [ask_health(process.metrics_port, "/healthz") for process in processes] == [OK] * len(processes)
    own_stack.start("redis")
    wait_ready(deployment, processes, OK)
