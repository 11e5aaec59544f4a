"""The worker touches its health file while no thread of the worker is stuck."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sluice.worker.health_step import HealthStep


@pytest.mark.parametrize("stuck", [False, True])
def test_a_worker_with_a_stuck_thread_does_not_touch_its_health_file(tmp_path: Path, stuck: bool) -> None:
    health_file = tmp_path / "alive"
    repeated: list[Any] = []
    parent = SimpleNamespace(
        app=SimpleNamespace(
            conf=SimpleNamespace(sluice_health_file=str(health_file)),
            sluice_services=SimpleNamespace(is_stuck=lambda: stuck),
        ),
        timer=SimpleNamespace(call_repeatedly=lambda _, touch: repeated.append(touch)),
    )
    HealthStep(parent).start(parent)
    health_file.unlink(missing_ok=True)
    for touch in repeated:
        touch()
    assert health_file.exists() is not stuck
