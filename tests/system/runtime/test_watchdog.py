"""A process whose loop stands still is ended, also where Python cannot run a signal's handler."""

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
# A call of C that blocks with the lock released, as one of a client library does.
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
    """Exit code and errors, when it has ended by itself."""
    _, errors = process.communicate(timeout=patient(60))
    return process.returncode, errors


def test_a_loop_that_does_not_turn_ends_the_process_with_its_stacks() -> None:
    with _started(FOREVER, turn=2, stop=1000) as process:
        exit_code, errors = _end(process)
    assert exit_code == STUCK_EXIT_CODE
    assert "the loop has not turned" in errors
    assert "most recent call first" in errors


def test_a_process_that_does_not_end_after_a_signal_is_ended() -> None:
    with _started(FOREVER, turn=1000, stop=2) as process:
        process.send_signal(signal.SIGTERM)
        exit_code, errors = _end(process)
    assert exit_code == STUCK_EXIT_CODE
    assert "after a signal to stop" in errors


def test_a_process_that_turns_and_ends_in_time_is_left_alone() -> None:
    body = "import time; [(watchdog.turned(), time.sleep(0.1)) for _ in range(40)]; watchdog.stop()"
    with _started(body, turn=3, stop=1000) as process:
        process.send_signal(signal.SIGTERM)
        assert _end(process) == (0, "")
