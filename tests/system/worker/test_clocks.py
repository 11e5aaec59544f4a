"""Wrong clocks stop nothing, and `sluice doctor` names them."""

import pytest

from tests.system.conftest import MakeDeployment
from tests.system.worker.clocks_running import (
    assert_beat_is_heard,
    assert_events_are_applied,
    start_with_clocks,
)

HOUR = 3_600.0


@pytest.mark.unforked
def test_clocks_that_are_wrong_and_then_jump(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    offsets = {"bridge": 3.0, "worker": -HOUR, "relay": HOUR, "beat": 0.0}
    clocks = start_with_clocks(deployment, offsets)
    assert_events_are_applied(deployment, seed=1)
    clocks["beat"].set(-HOUR)
    clocks["relay"].set(-3.0)
    assert_beat_is_heard(deployment, number=1)

    def doctor() -> str:
        return " ".join(deployment.run.sluice("doctor").stdout.decode().split())

    expected = (
        "beat",
        "3600.0 s behind, bridge",
        "3.0 s ahead, worker relay@",
        "3.0 s behind, worker worker@",
    )
    deployment.wait_until(
        lambda: all(words in doctor() for words in expected),
        timeout_seconds=60,
        what="doctor names the clocks",
    )
