"""Starts processes that outlive their parent, and identifies them by pid and start time, not by pid only."""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sluice.stack.patience import patient
from sluice.stack.service import Launch

POLL_SECONDS = 0.05

# The child waits for a line before it becomes the server. If this process ends before the pid is on disk, the
# child reads end-of-file and ends. Therefore every server that runs is in a state file.
WAIT_FOR_GO = 'read -r go || exit 1; exec "$@" </dev/null'


@dataclass(frozen=True)
class ProcessId:
    """A process of this machine. `started` distinguishes it from a later process with the same pid."""

    pid: int
    started: str


def start_detached(launch: Launch, log: Path, *, record: Callable[[ProcessId], None]) -> ProcessId:
    """Starts a server in a new session, so that it survives this process. Appends its output to `log`.

    `record` is called before the server runs. If `record` raises an error, the server does not start.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            ["/bin/sh", "-c", WAIT_FOR_GO, "sh", *launch.argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(launch.environ),
            cwd="/",
            user=launch.user,
            group=None if launch.user is None else group_of(launch.user),
            extra_groups=None if launch.user is None else [],
            start_new_session=True,
        )
    assert child.stdin is not None
    # Prevents Popen's warning about a child that outlives this object. `is_alive` reaps the child when it
    # ends.
    child.returncode = 0
    with child.stdin as go:
        process = ProcessId(child.pid, start_time(child.pid) or "")
        record(process)
        go.write(b"go\n")
    return process


def group_of(user: str) -> int:
    """Returns the primary group of a user."""
    return pwd.getpwnam(user).pw_gid


def is_alive(process: ProcessId) -> bool:
    """Returns True if exactly this process still runs. A zombie does not count as running."""
    try:
        collected, _ = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        collected = process.pid  # Another command started the process and must reap it.
    # If a child looks dead but cannot be reaped yet, its last threads may still hold its ports and files.
    return start_time(process.pid, even_dying=collected == 0) == process.started


def send_signal(process: ProcessId, number: signal.Signals) -> None:
    """Signals this process, but no later process with its pid. Ignores a process that has ended."""
    if is_alive(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def stop_process(process: ProcessId, number: signal.Signals, *, timeout_seconds: float) -> None:
    """Signals the process and waits for its end. Kills the process if it has not ended after the timeout."""
    send_signal(process, number)
    if not wait_for(lambda: not is_alive(process), timeout_seconds=timeout_seconds):
        send_signal(process, signal.SIGKILL)
        wait_for(lambda: not is_alive(process), timeout_seconds=timeout_seconds)


def wait_for(condition: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Waits for the condition. Returns True if it became true in time.

    On a busy machine the time is longer.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patient(timeout_seconds):
            return False
        time.sleep(POLL_SECONDS)
    return True


def start_time(pid: int, *, even_dying: bool = False) -> str | None:
    """Returns a text that is unique among processes with this pid; None if no such process runs.

    With `even_dying`, a process that has ended but was not reaped yet also counts.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _start_time_from_ps(pid)
    # The second field is the name in parentheses. The name may contain any characters, even spaces and
    # parentheses.
    fields = stat.rpartition(")")[2].split()
    state, started_ticks = fields[0], fields[19]
    if state in ("Z", "X") and not even_dying:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{started_ticks}"


def _start_time_from_ps(pid: int) -> str | None:
    """Returns the start time on systems without /proc (macOS)."""
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return None if answer.returncode or not state or state.startswith("Z") else started.strip()
