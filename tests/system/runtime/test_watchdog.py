"""A process whose loop stands still is ended, also where Python cannot run a signal's handler."""

import signal
import subprocess
import sys
import textwrap

import pytest

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


def _start(body: str, *, turn: float, stop: float) -> "subprocess.Popen[str]":
    code = textwrap.dedent(PROCESS).format(turn=turn, stop=stop, body=body)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_loop_that_does_not_turn_ends_the_process_with_its_stacks() -> None:
    process = _start(FOREVER, turn=2, stop=1000)
    _, errors = process.communicate(timeout=patient(60))
    assert process.returncode == STUCK_EXIT_CODE
    assert "the loop has not turned" in errors
    assert "most recent call first" in errors


def test_a_process_that_does_not_end_after_a_signal_is_ended() -> None:
    process = _start(FOREVER, turn=1000, stop=2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=patient(60))
    assert process.returncode == STUCK_EXIT_CODE
    assert "after a signal to stop" in errors


@pytest.mark.parametrize("is_signalled", [False, True])
def test_a_process_that_turns_and_ends_in_time_is_left_alone(is_signalled: bool) -> None:
    body = "import time; [(watchdog.turned(), time.sleep(0.1)) for _ in range(40)]; watchdog.stop()"
    process = _start(body, turn=3, stop=1000)
    if is_signalled:
        process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=patient(60))
    assert (process.returncode, errors) == (0, "")
