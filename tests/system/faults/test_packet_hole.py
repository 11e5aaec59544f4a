"""Existing connections to a server lose all packets without a reset. New connections reach the server."""

import time

import pytest

from sluice.stack import Stack
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle
from tests.system.faults.packet_hole import packet_hole
from tests.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900), pytest.mark.own("kafka", "postgres", "redis")]

RATE = 100
PATIENCE_SECONDS = 120


@pytest.mark.parametrize("service", ["postgres", "redis", "kafka"])
def test_events_are_applied_again_after_connections_lose_all_packets(
    make_deployment: MakeDeployment, own_stack: Stack, service: str
) -> None:
    deployment = make_deployment()
    run = deployment.run
    started = [run.start_bridge(), run.start_worker(), run.start_worker(name="worker-2"), run.start_relay()]
    started.append(run.start_beat())
    (port,) = [found.port for found in own_stack.status() if found.name == service]
    assert port is not None

    def settled() -> int:
        return deployment.outcomes().total()

    with SteadyLoad(deployment, lambda count, first: mixed_events(count, seed=first), rate=RATE) as load:
        wait_until(lambda: settled() > 5 * RATE, timeout_seconds=60, what="events are applied")
        with packet_hole([process.popen.pid for process in started], port) as connections:
            began, sent = time.monotonic(), load.sent
            assert connections
            wait_until(
                lambda: settled() > sent + 5 * RATE,
                timeout_seconds=PATIENCE_SECONDS,
                what=f"events sent after {connections} connections to {service} were cut are applied",
            )
            print(f"{service}: {connections} connections cut, {time.monotonic() - began:.1f} s")
    deployment.wait_settled(timeout_seconds=120)
    deployment.wait_sent(timeout_seconds=120)
    assert all(process.exit_code is None for process in started)
    assert_equals_the_oracle(deployment)
