"""A supervisor and its worker as processes: the supervisor stores which event ended the worker.

A death is the end of a worker within a handler.
"""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sluice.runtime import handler_mark
from sluice.stack.patience import patient
from tests.waiting import wait_until

# The supervisor prints each stored death as one line. The first attempts to store a death may fail.
SUPERVISOR = """
    import os, structlog, sys
    from sluice.worker.supervisor import Supervisor

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    failures = {failures}
    def store(death):
        global failures
        failures -= 1
        print([*death.mark[1:], death.timed_out, death.how] if failures < 0 else "no answer", flush=True)
        return failures < 0

    command = [sys.executable, "-c", {worker!r}]
    sys.exit(Supervisor(command, environ=os.environ, handler_seconds=0.2, store_death=store).run())
"""
# `attempt` is 1 in the first worker of the test, 2 in the second, and so on. The module is loaded without its
# package, because this is faster.
WORKER = """
    import ctypes, importlib.util, os, pathlib, signal, sys, time

    spec = importlib.util.spec_from_file_location("handler_mark", {module!r})
    mark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mark)
    cells = mark.find_memory(os.environ).cast("q")
    attempts = pathlib.Path("attempts")
    attempts.open("a").write("x")
    attempt = len(attempts.read_text())

    def ready():
        cells[mark.STATE] = mark.WorkerState.READY

    def run(offset):
        mark.write_label(cells, ("order.0", "orders", "id"))
        mark.write_place(cells, 3, offset)
        cells[mark.RUNNING] = offset + 1

    def leave():
        cells[mark.RUNNING] = 0

    def end():
        cells[mark.STATE] = mark.WorkerState.ENDING
        sys.exit(0)

    def pid():
        pathlib.Path("pid").write_text(str(os.getpid()))

"""
DEATH = "['order.0', 'orders', 'id', 3, 40, {}, '{}']"
KILLED = "killed by its supervisor, because the handler could not be interrupted"


@contextmanager
def supervised(folder: Path, worker: str, *, failures: int = 0) -> "Iterator[subprocess.Popen[str]]":
    code = textwrap.dedent(WORKER).format(module=handler_mark.__file__) + textwrap.dedent(worker)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SUPERVISOR).format(worker=code, failures=failures)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def attempts(folder: Path) -> int:
    return len((folder / "attempts").read_text())


RUNS = [
    # Name of the case, code of the worker, exit code of the supervisor, number of started workers, stored
    # deaths.
    ("refuses to start", "sys.exit('Worker refused: no')", 1, 1, []),
    ("exits with a usage error", "sys.exit(2)", 2, 1, []),
    ("fails one time, then stops", "ready()\nif attempt == 1: sys.exit(1)\nend()", 0, 2, []),
    ("is killed at its start", "if attempt == 1: os.kill(os.getpid(), 9)\nend()", 0, 2, []),
    (
        "exits in a handler",
        "ready()\nif attempt < 3: run(40); os._exit(0)\nend()",
        0,
        3,
        [DEATH.format(False, "exit code 0")] * 2,
    ),
    (
        "crashes in a handler",
        "ready()\nif attempt == 1: run(40); ctypes.string_at(0)\nend()",
        0,
        2,
        [DEATH.format(False, "signal SIGSEGV")],
    ),
    (
        "aborts in a handler of its first batch",
        "if attempt == 1: run(40); os.abort()\nready(); end()",
        0,
        2,
        [DEATH.format(False, "signal SIGABRT")],
    ),
    (
        "is killed in a handler",
        "ready()\nif attempt == 1: run(40); os.kill(os.getpid(), 9)\nend()",
        0,
        2,
        [DEATH.format(False, "signal SIGKILL")],
    ),
    (
        "is killed between two handlers",
        "ready()\nif attempt == 1: run(40); leave(); os.kill(os.getpid(), 9)\nend()",
        0,
        2,
        [],
    ),
    (
        "computes with the GIL held",
        "ready()\nif attempt == 1: run(40); 3 ** 10 ** 9\nend()",
        0,
        2,
        [DEATH.format(True, KILLED)],
    ),
    (
        "sleeps with the GIL held",
        "ready()\nif attempt == 1: run(40); ctypes.PyDLL(None).sleep(1000)\nend()",
        0,
        2,
        [DEATH.format(True, KILLED)],
    ),
]


OFTEN = {"exits in a handler", "sleeps with the GIL held"}
"""The cases that `make test` runs. `make test-matrix` runs the others."""


@pytest.mark.parametrize(
    ("worker", "exit_code", "started", "deaths"),
    [pytest.param(*c[1:], id=c[0], marks=() if c[0] in OFTEN else pytest.mark.matrix) for c in RUNS],
)
def test_the_supervisor_reacts_to_every_end_of_its_worker(
    tmp_path: Path, worker: str, exit_code: int, started: int, deaths: Sequence[str]
) -> None:
    with supervised(tmp_path, worker) as process:
        output, _ = process.communicate(timeout=patient(60))
    assert process.returncode == exit_code
    assert attempts(tmp_path) == started
    assert output.splitlines() == list(deaths)


@pytest.mark.matrix
def test_the_next_worker_starts_after_the_death_is_stored(tmp_path: Path) -> None:
    worker = "ready()\nif attempt == 1: run(40); os._exit(0)\nend()"
    with supervised(tmp_path, worker, failures=1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "no answer\n"
        # The supervisor tries again after a pause. It starts no worker before the death is stored.
        assert attempts(tmp_path) == 1
        assert process.stdout.readline().strip() == DEATH.format(False, "exit code 0")
        assert process.wait(patient(60)) == 0
    assert attempts(tmp_path) == 2


@pytest.mark.matrix
def test_a_series_of_short_handlers_is_not_killed(tmp_path: Path) -> None:
    """Ten handlers run, each for less than the limit. Together they run for longer than the limit."""
    worker = "ready()\nfor offset in range(10): run(offset); time.sleep(0.1); leave()\nend()"
    with supervised(tmp_path, worker) as process:
        output, _ = process.communicate(timeout=patient(60))
    assert (process.returncode, output, attempts(tmp_path)) == (0, "", 1)


@pytest.mark.parametrize(
    ("given", "received"),
    [
        (signal.SIGTERM, signal.SIGTERM),
        pytest.param(signal.SIGINT, signal.SIGINT, marks=pytest.mark.matrix),
        pytest.param(signal.SIGQUIT, signal.SIGQUIT, marks=pytest.mark.matrix),
        pytest.param(signal.SIGHUP, signal.SIGTERM, marks=pytest.mark.matrix),
    ],
)
def test_a_stop_signal_is_forwarded_and_no_other_worker_starts(
    tmp_path: Path, given: signal.Signals, received: signal.Signals
) -> None:
    worker = f"""
        def stop(*_):
            pathlib.Path("stopped").write_text("yes")
            sys.exit(5)
        signal.signal({received.value}, stop)
        ready(); pid()
        while True: time.sleep(1)
    """
    with supervised(tmp_path, "\n" + textwrap.dedent(worker)) as process:
        wait_until(lambda: worker_pid(tmp_path), timeout_seconds=30, what="the worker runs")
        process.send_signal(given)
        assert process.wait(patient(60)) == 5
    assert (tmp_path / "stopped").read_text() == "yes"
    assert attempts(tmp_path) == 1


@pytest.mark.matrix
def test_a_stop_signal_in_the_pause_before_the_next_worker_ends_the_supervisor(tmp_path: Path) -> None:
    with supervised(tmp_path, "ready()\nsys.exit(1)") as process:
        # The pauses between two workers increase to 30 seconds. The signal arrives in a pause or shortly
        # before one.
        wait_until(
            lambda: (tmp_path / "attempts").exists() and attempts(tmp_path) == 3,
            timeout_seconds=30,
            what="the third worker has started",
        )
        process.terminate()
        process.wait(patient(60))
    assert process.returncode in (0, 1, 143)


def test_the_worker_of_a_killed_supervisor_ends(tmp_path: Path) -> None:
    with supervised(tmp_path, "\nready(); pid()\nwhile True: time.sleep(1)") as process:
        pid = wait_until(lambda: worker_pid(tmp_path), timeout_seconds=30, what="the worker runs")
        process.kill()
        wait_until(lambda: not is_alive(pid), timeout_seconds=30, what="the worker has ended")


def worker_pid(folder: Path) -> int:
    file = folder / "pid"
    return int(file.read_text() or 0) if file.exists() else 0


def is_alive(pid: int) -> bool:
    """Returns True if the process runs. A zombie does not count as alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
