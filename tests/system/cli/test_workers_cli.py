"""`sluice workers`, `status` and `doctor` with a real worker that was started without `--queues`."""

import os
from typing import Any

import pytest

from examples.shop.generate import generate
from sluice.db.delivery.leases import read_workers
from tests.system.cli.test_cli import document, sluice
from tests.system.conftest import MakeDeployment
from tests.system.serving import start_beside


@pytest.mark.own("postgres")
def test_a_worker_is_shown_with_its_queues_and_last_batch(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    queues = sorted(deployment.queues())
    nobody = sluice(deployment, "workers")
    assert nobody.returncode == 0
    assert b"start one by `sluice worker`" in nobody.stdout
    assert b"queues without a worker: balance.0" in nobody.stdout
    status = sluice(deployment, "status")
    assert status.returncode == 0
    assert b"queues without a worker: balance.0" in status.stdout

    deployment.run.start_bridge()
    worker = deployment.run.start_worker()
    deployment.produce(generate("users", count=50, seed=1))
    deployment.wait_settled()
    node = f"worker@{os.uname().nodename}"

    def told() -> bool:
        found = read_workers(deployment.session)
        return not found.unheld() and all(
            one.last_records and None not in one.leases.values() for one in found.workers
        )

    deployment.wait_until(told, timeout_seconds=30, what="the worker reports its queues and its last batch")
    said = document(sluice(deployment, "workers", "--json"))
    [one] = said["workers"]
    assert (one["node"], one["process_id"]) == (node, worker.pid)
    assert sorted(queue["queue"] for queue in one["queues"]) == queues
    assert all(0 <= queue["seconds"] < 120 for queue in one["queues"])
    assert one["last_batch"]["queue"].startswith("user.")
    assert 0 < one["last_batch"]["records"] <= 50
    assert said["queues_without_worker"] == []
    shown = sluice(deployment, "workers", environ={"COLUMNS": "400"}).stdout.decode()
    assert [node, str(worker.pid)] in [line.split()[:2] for line in shown.splitlines()]
    assert "a worker with --queues holds no lease and is not listed here" in shown

    status_said = document(sluice(deployment, "status", "--json"))
    assert {queue["queue"]: queue["worker"] for queue in status_said["queues"]} == dict.fromkeys(queues, node)
    assert status_said["queues_without_worker"] == []
    assert node in sluice(deployment, "status", environ={"COLUMNS": "400"}).stdout.decode()
    start_beside(deployment)
    assert document(sluice(deployment, "doctor", "--json"))["findings"] == []

    worker.stop()
    # At its regular end, the worker has deleted its row.
    after: Any = document(sluice(deployment, "workers", "--json"))
    assert (after["workers"], sorted(after["queues_without_worker"])) == ([], queues)
