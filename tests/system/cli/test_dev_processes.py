"""`sluice dev` shows all output of its processes and leaves no process running."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sluice.cli import dev_loop
from sluice.cli.dev_loop import DevLoop
from sluice.cli.dev_processes import Children, Command
from tests.waiting import wait_until

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""
PARENT = """
import os, sys
from sluice.cli.dev_processes import Children, Command
children = Children(print)
child = children.start(Command("child", ("-c", "import time; time.sleep(600)")), os.environ)
print(child.pid, flush=True)
children.pump(600)
"""


class Shown:
    """Records the lines that were shown, and sends signals after given lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.signals_after: dict[str, int] = {}
        """Line → number of signals that arrive after the line was shown."""
        self.children = Children(self.show)

    def show(self, _name: str, line: str) -> None:
        self.lines.append(line)
        self.children.signals += self.signals_after.get(line, 0)

    def wait_for(self, line: str) -> None:
        def is_there() -> bool:
            self.children.pump(0.05)
            return line in self.lines

        wait_until(is_there, timeout_seconds=30, what=line)


@pytest.fixture
def shown() -> Shown:
    return Shown()


def python(code: str) -> Command:
    return Command("python", ("-c", code))


@pytest.mark.parametrize(
    ("code", "exit_code", "lines"),
    [
        ("print('a'); import sys; sys.stderr.write('b\\n'); sys.exit(3)", 3, ["a", "b"]),
        ("import os; os.write(1, b'a\\nno end'); os.kill(os.getpid(), 9)", -9, ["a", "no end"]),
        ("import os; os.write(1, b'\\xff\\n' + b'x' * 200_000)", 0, ["\ufffd", "x" * 200_000]),
    ],
)
def test_all_output_of_an_ended_process_is_shown(
    shown: Shown, code: str, exit_code: int, lines: list[str]
) -> None:
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    assert shown.children.run(python(code), environ) == exit_code
    assert shown.lines == lines


def test_a_process_that_does_not_end_is_killed_at_the_second_signal(shown: Shown) -> None:
    child = shown.children.start(python(STUBBORN), os.environ)
    shown.wait_for("ready")

    shown.signals_after["no"] = 2
    shown.children.stop([child])
    assert child.exit_code == -9
    assert shown.lines == ["ready", "no"]


def test_the_processes_end_if_their_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        wait_until(lambda: not child.is_running(), timeout_seconds=30, what="the child has ended")


def test_a_process_that_fails_repeatedly_is_restarted_with_backoff(shown: Shown, tmp_path: Path) -> None:
    reports: list[str] = []
    loop = DevLoop(shown.children, reports.append, environ=os.environ, folder=tmp_path, home=tmp_path)
    loop.start(python("print('reason'); raise SystemExit(3)"))

    def has_failed_twice() -> bool:
        shown.children.pump(0.05)
        loop.start_again()
        return any("2 times in a row" in line for line in reports)

    wait_until(has_failed_twice, timeout_seconds=60, what="the process has failed twice")
    ended = [line.partition(" after ")[2] for line in reports if "ended with exit code 3" in line]
    assert [line.partition(";")[2] for line in ended] == [
        " it starts again in 1 s",
        " it starts again in 2 s",
    ]
    assert shown.lines == ["reason"] * 2


def test_processes_are_ready_when_each_has_touched_its_health_file(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    loop = DevLoop(shown.children, reports.append, environ=os.environ, folder=tmp_path, home=tmp_path)
    (tmp_path / "python.alive").touch()  # An earlier run left this file.
    loop.start(python("import time; time.sleep(600)"))
    loop.start(Command("flower", ("-c", "import time; time.sleep(600)"), imports_handlers=False))
    loop.report_ready()
    assert [line for line in reports if "starts, pid" not in line] == []
    monkeypatch.setattr(dev_loop, "WAITING_EVERY_SECONDS", 0.0)
    loop.report_ready()
    assert reports[-1] == "waiting for python (0 s)"
    (tmp_path / "python.alive").touch()
    loop.report_ready()
    loop.report_ready()
    assert reports.count("all processes are ready") == 1
    loop.end()


def test_a_process_is_restarted_although_another_process_has_not_ended_yet(
    shown: Shown, tmp_path: Path
) -> None:
    reports: list[str] = []
    loop = DevLoop(shown.children, reports.append, environ=os.environ, folder=tmp_path, home=tmp_path)
    stubborn, quick = python(STUBBORN), Command("quick", ("-c", "import time; time.sleep(600)"))
    loop.start(stubborn)
    loop.start(quick)
    shown.wait_for("ready")
    loop.restart()

    def has_started_again() -> bool:
        shown.children.pump(0.05)
        loop.start_again()
        return sum(line.startswith("quick starts") for line in reports) == 2

    wait_until(has_started_again, timeout_seconds=60, what="the quick process has started again")
    assert sum(line.startswith("python starts") for line in reports) == 1
    assert not [line for line in reports if "ended with" in line]
    shown.signals_after["no"] = 2
    loop.end()
    pids = [int(line.rpartition(" ")[2]) for line in reports if "starts, pid" in line]
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
