"""`make demo FAST=1` as a process: its report, and the end of the processes that it started."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.harness.processes import PROJECT
from tests.waiting import wait_until

pytestmark = pytest.mark.matrix


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Starts the demo in a folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    with (folder / "report").open("wb") as output, (folder / "progress").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.demo", "--fast", *words],
            cwd=folder,
            env=clean | {"PYTHONPATH": str(PROJECT)},
            stdout=output,
            stderr=errors,
        )


@pytest.mark.parametrize("options", [(), ("--secure",)], ids=["plain", "secure"])
def test_the_fast_demo_passes_and_reports_json(tmp_path: Path, options: tuple[str, ...]) -> None:
    demo = start(tmp_path, "--json", *options)
    code = demo.wait()
    progress = (tmp_path / "progress").read_text()
    assert code == 0, progress
    report = json.loads((tmp_path / "report").read_text())
    assert report["ok"]
    assert [one["scenario"] for one in report["scenarios"]] == ["1a", "2", "3", "6", "all"]
    assert all(check["ok"] for one in report["scenarios"] for check in one["checks"])
    assert "1a  A worker is killed" in progress


def test_an_interrupted_demo_reports_its_scenarios_and_leaves_no_process(tmp_path: Path) -> None:
    demo = start(tmp_path)
    progress = tmp_path / "progress"
    wait_until(lambda: "1a  " in progress.read_text(), timeout_seconds=120, what="the first scenario runs")
    started = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(signal.SIGTERM)
    assert demo.wait() == 130
    # Zombies do not count, because process 1 reaps them later.
    _, left = psutil.wait_procs(started, timeout=0)
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []
    report = (tmp_path / "report").read_text()
    assert "Failed: 1a." in report
    assert "interrupted" in report
