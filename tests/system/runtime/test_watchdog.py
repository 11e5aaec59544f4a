"""The watchdog ends a process whose loop is stuck, even if Python cannot run a signal handler."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from sluice.runtime.watchdog import STUCK_EXIT_CODE
from sluice.stack.patience import patient

PROCESS = """
    import signal
    from sluice.runtime.watchdog import Watchdog
    signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
    watchdog = Watchdog(turn_seconds={turn}, stop_seconds={stop})
    watchdog.start()
    print("ready", flush=True)
    {body}
"""
# A C function that blocks and has released the GIL, as in a call of a client library.
FOREVER = "import ctypes; libc = ctypes.CDLL(None); [libc.sleep(1000) for _ in range(1000)]"


@contextmanager
def _started(body: str, *, turn: float, stop: float) -> "Iterator[subprocess.Popen[str]]":
    code = textwrap.dedent(PROCESS).format(turn=turn, stop=stop, body=body)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def _end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Waits until the process has ended by itself. Returns its exit code and standard error."""
    _, errors = process.communicate(timeout=patient(60))
    return process.returncode, errors


def test_a_stuck_loop_ends_the_process_and_prints_its_stacks() -> None:
    with _started(FOREVER, turn=2, stop=1000) as process:
        exit_code, errors = _end(process)
    assert exit_code == STUCK_EXIT_CODE
    assert "the loop has not turned" in errors
    assert "most recent call first" in errors


def test_a_process_that_ignores_a_stop_signal_is_ended() -> None:
    with _started(FOREVER, turn=1000, stop=2) as process:
        process.send_signal(signal.SIGTERM)
        exit_code, errors = _end(process)
    assert exit_code == STUCK_EXIT_CODE
    assert "after a signal to stop" in errors


def test_a_process_whose_loop_runs_and_that_stops_in_time_is_not_ended() -> None:
    body = "import time; [(watchdog.turned(), time.sleep(0.1)) for _ in range(40)]; watchdog.stop()"
    with _started(body, turn=3, stop=1000) as process:
        process.send_signal(signal.SIGTERM)
        assert _end(process) == (0, "")
