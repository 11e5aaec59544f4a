"""The health file. A process is healthy if its file is new enough."""

import os
from pathlib import Path

import pytest

from sluice.runtime.health import STALE_AFTER_SECONDS, is_healthy, touch_health

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("age", "healthy"),
    [
        (0.0, True),
        (STALE_AFTER_SECONDS - 1, True),
        (STALE_AFTER_SECONDS, False),
        # The clock was set back, so the loop may have ended after the file was written.
        (-3_600.0, False),
        (-1.0, True),
    ],
)
def test_a_process_is_healthy_while_its_file_is_fresh(tmp_path: Path, age: float, healthy: bool) -> None:
    health_file = tmp_path / "alive"
    touch_health(str(health_file))
    os.utime(health_file, (NOW - age, NOW - age))
    assert is_healthy(health_file, NOW) is healthy


def test_a_process_without_a_file_is_not_healthy(tmp_path: Path) -> None:
    assert not is_healthy(tmp_path / "alive", NOW)
