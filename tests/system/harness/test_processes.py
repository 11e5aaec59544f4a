"""A forked process has the same environment and exit code as a new process, and ends with the test run."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from sluice.stack.patience import patient
from sluice.stack.processes import start_time
from sluice.testing.servers.processes import Child, Start, start_new
from tests.harness.processes import PROJECT, Zygote
from tests.waiting import wait_until

MIRROR = "tests.system.harness.mirror"
END_SECONDS = 60.0
# A simulated test run. The test kills it while its child process waits.
PARENT = f"""
import os, signal, sys
from pathlib import Path
from tests.harness.processes import Zygote
from sluice.testing.servers.processes import start_new
start = Zygote().start if sys.argv[1] == "forked" else start_new
environ = {{"PYTHONPATH": {str(PROJECT)!r}}}
child = start({MIRROR!r}, [], environ=environ, folder=Path("/"), files=(0, 2, 2))
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture(params=["new", "forked"])
def start(request: pytest.FixtureRequest, zygote: Zygote) -> Start:
    """Returns a function that starts a process, either as a new interpreter or as a fork."""
    return start_new if request.param == "new" else zygote.start


@contextmanager
def mirrored(
    start: Start, folder: Path, *words: str, given: bytes = b""
) -> Iterator[tuple[Child, IO[bytes]]]:
    """Runs the mirror with `given` as its standard input. Yields the process and its output file."""
    read, write = os.pipe()
    os.write(write, given)
    os.close(write)
    with tempfile.TemporaryFile() as output:
        files = (read, output.fileno(), output.fileno())
        environ = {"PYTHONPATH": str(PROJECT), "GIVEN": "value"}
        child = start(MIRROR, words, environ=environ, folder=folder, files=files)
        os.close(read)
        try:
            yield child, output
        finally:
            child.kill()
            child.wait(patient(END_SECONDS))


def seen(start: Start, folder: Path) -> dict[str, Any]:
    with mirrored(start, folder, "7", given=b"input") as (child, output):
        assert child.wait(patient(END_SECONDS)) == 7
        output.seek(0)
        lines = output.read().decode().splitlines()
    # The program writes each line of standard error immediately, but standard output only at its end.
    assert lines[0] == "an error"
    found: dict[str, Any] = json.loads(lines[1])
    return found


def test_a_forked_process_has_the_same_environment_as_a_new_process(zygote: Zygote, tmp_path: Path) -> None:
    new, forked = seen(start_new, tmp_path), seen(zygote.start, tmp_path)
    assert new["random"] != forked["random"] != seen(zygote.start, tmp_path)["random"]
    assert {**new, "random": None} == {**forked, "random": None}
    assert (new["words"], new["stdin"], new["environ"]["GIVEN"]) == (["7"], "input", "value")
    assert (new["leads_session"], new["stdin_seekable"]) == (True, False)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_determines_the_exit_code(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    with mirrored(start, tmp_path) as (child, output):
        wait_until(
            lambda: os.fstat(output.fileno()).st_size, timeout_seconds=END_SECONDS, what="the mirror waits"
        )
        assert child.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.01)
        child.send_signal(number)
        assert child.wait(patient(END_SECONDS)) == child.poll() == -number
        assert start_time(child.pid) is None
        child.send_signal(number)  # This has no effect, because the process has ended.


@pytest.mark.parametrize("how", ["new", "forked"])
def test_a_process_ends_with_its_killed_test_run(how: str) -> None:
    command = [sys.executable, "-c", PARENT, how]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert start_time(pid) is not None
        run.kill()
    wait_until(lambda: start_time(pid) is None, timeout_seconds=END_SECONDS, what="the process has ended")
