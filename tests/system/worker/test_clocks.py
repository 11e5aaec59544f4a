"""Processes with wrong clocks still work, and each process measures the offset of its clock."""

import pytest

from sluice.db.delivery.living_processes import read_living
from sluice.db.records import ProcessKind
from tests.system.conftest import MakeDeployment
from tests.system.worker.clocks_running import (
    assert_beat_works,
    assert_events_are_applied,
    start_with_clocks,
)

HOUR = 3_600.0


@pytest.mark.matrix
@pytest.mark.unforked
def test_events_are_applied_with_wrong_clocks_that_jump(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    offsets = {"bridge": 3.0, "worker": -HOUR, "relay": HOUR, "beat": 0.0}
    clocks = start_with_clocks(deployment, offsets)
    assert_events_are_applied(deployment, seed=1)
    clocks["beat"].set(-HOUR)
    clocks["relay"].set(-3.0)
    assert_beat_works(deployment, number=1)
    offsets |= {"beat": -HOUR, "relay": -3.0}

    def measured() -> bool:
        # Workers are found by their name, the bridge and the beat by their kind.
        found = {
            one.node.partition("@")[0] if one.kind is ProcessKind.WORKER else one.kind: one.clock_offset
            for one in read_living(deployment.session)
        }
        return all(round(found.get(name) or 0.0) == offset for name, offset in offsets.items())

    deployment.wait_until(measured, timeout_seconds=60, what="each process has measured its clock")
