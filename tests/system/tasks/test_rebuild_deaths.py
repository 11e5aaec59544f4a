"""A rebuild skips an event that kills the rebuild worker, and reports the event as dead in the generation."""

import json
from typing import Any

import pytest

from examples.shop.generate import OutgoingRecord
from sluice.db.projections.generations import read_generations
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment

THINGS = 60
CURRENT, NEXT = "tests.system.tasks.dying_app", "tests.system.tasks.dying_next_app"


def deploy_next(deployment: Deployment) -> None:
    """Makes later processes start with the next revision of the handlers."""
    before = deployment.run.handlers
    deployment.run.handlers = after = f"{before}_next"
    text = (deployment.run.folder / f"{before}.py").read_text().replace(CURRENT, NEXT)
    (deployment.run.folder / f"{after}.py").write_text(text)
    deployment.registry = collect_handlers(after)


def is_ready(deployment: Deployment) -> bool:
    return read_generations(deployment.session)[-1].state == "ready"


def sluice(deployment: Deployment, *words: str) -> Any:
    return json.loads(deployment.run.run_sluice("rebuild", *words, "--json"))


@pytest.mark.matrix
@pytest.mark.unforked
@pytest.mark.parametrize("supervised", [True, False])
def test_a_rebuild_skips_an_event_whose_handler_ends_its_process(
    make_deployment: MakeDeployment, supervised: bool
) -> None:
    deployment = make_deployment(CURRENT, partitions=1)
    bridge = deployment.run.start_bridge()
    worker = deployment.run.start_worker(deployment.queues())
    keys = [f"thing-{n}" if n != THINGS // 2 else "deadly" for n in range(THINGS)]
    deployment.produce(
        OutgoingRecord("dying-things", key, {"event_id": key, "type": "thing.seen", "data": {}})
        for key in keys
    )
    deployment.wait_settled()
    assert (bridge.stop(), worker.stop()) == (0, 0)
    deploy_next(deployment)
    deployment.run.start_relay()
    deployment.run.start_beat()
    sluice(deployment, "start", "counted", "--reason", "a test", "--no-wait")
    if supervised:
        deployment.run.start_supervised_worker(command="rebuild-worker")
    while not is_ready(deployment):
        one = None if supervised else deployment.run.start_rebuilds()
        deployment.wait_until(
            lambda one=one: is_ready(deployment) or (one is not None and one.exit_code is not None),  # type: ignore[misc]
            timeout_seconds=90,
            what="the generation is ready, or its worker has ended",
        )
    [live, built] = sluice(deployment, "status", "counted")
    assert (live["state"], built["folded"]) == ("live", THINGS)
    died = built["died_in_generation"]
    assert died["count"] == 1
    assert (died["first"][0]["key"], died["first"][0]["error_class"]) == ("deadly", "HandlerEndedProcess")
    assert "SIGKILL" in died["first"][0]["error_text"] or not supervised
