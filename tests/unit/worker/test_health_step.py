"""The worker touches its health file while no thread of the worker is stuck."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.signals import worker_ready

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
    assert not health_file.exists(), "the worker cannot take tasks yet"
    for touch in (partial(worker_ready.send, sender=None), *repeated):
        health_file.unlink(missing_ok=True)
        touch()
        assert health_file.exists() is not stuck


@pytest.fixture(autouse=True)
def _own_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_ready, "receivers", [])
