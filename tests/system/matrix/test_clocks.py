"""Events are applied although a process has a wrong clock, at its start or after the clock was changed."""

import pytest

from tests.system.conftest import MakeDeployment
from tests.system.worker.clocks_running import (
    assert_beat_works,
    assert_events_are_applied,
    start_with_clocks,
)

pytestmark = [pytest.mark.matrix, pytest.mark.unforked]

PROCESSES = ("bridge", "worker", "relay", "beat")
OFFSETS = (-3_600.0, -3.0, 3.0, 3_600.0)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("process", PROCESSES)
def test_events_are_applied_if_one_clock_is_wrong(
    make_deployment: MakeDeployment, process: str, offset: float
) -> None:
    deployment = make_deployment()
    clocks = start_with_clocks(deployment, {process: offset})
    assert_events_are_applied(deployment, seed=1)
    clocks[process].set(-offset)
    assert_events_are_applied(deployment, seed=2)
    assert_beat_works(deployment, number=1)


@pytest.mark.parametrize("ahead", PROCESSES)
def test_events_are_applied_if_one_clock_is_ahead_and_the_others_behind(
    make_deployment: MakeDeployment, ahead: str
) -> None:
    deployment = make_deployment()
    offsets = {name: 3_600.0 if name == ahead else -3_600.0 for name in PROCESSES}
    start_with_clocks(deployment, offsets)
    assert_events_are_applied(deployment, seed=1)
    assert_beat_works(deployment, number=1)
    shown = " ".join(deployment.run.sluice("doctor").stdout.decode().split())
    assert "Clocks differ from the clock of Postgres" in shown
    assert "3600.0 s ahead" in shown
    assert "3600.0 s behind" in shown
