"""If Python cannot interrupt a call, the hard limit ends the process before the claim of the call ends."""

import subprocess
import sys

from sluice.stack.patience import patient
from sluice.tasks.effects.call_states import CLAIM_MARGIN_SECONDS
from sluice.tasks.effects.executor import HARD_LIMIT_SECONDS

# PyDLL holds the GIL during the call, as some client libraries do.
STUCK = """
import ctypes
from sluice.tasks.effects.executor import _hard_limit, _time_limit
library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(128)
with _hard_limit(1.0), _time_limit(0.2):
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
"""
IN_TIME = """
import time
from sluice.tasks.effects.executor import _hard_limit
with _hard_limit(0.2):
    pass
time.sleep(1.0)
print("alive")
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=patient(60), check=False
    )


def test_the_hard_limit_ends_the_process_of_a_call_that_holds_the_gil() -> None:
    done = run(STUCK)
    assert done.returncode == 1
    assert "Timeout" in done.stderr


def test_the_hard_limit_does_not_end_the_process_after_the_call_returned() -> None:
    assert run(IN_TIME).stdout == "alive\n"


def test_the_process_ends_before_the_claim_ends() -> None:
    assert 0 < HARD_LIMIT_SECONDS < CLAIM_MARGIN_SECONDS
