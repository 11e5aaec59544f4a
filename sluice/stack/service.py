"""The interface of the stack's services, and their status."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Literal, Protocol

ServiceName = Literal["kafka", "postgres", "redis"]
ServiceState = Literal["running", "silent", "stopped"]
# term: orderly. immediate: as fast as the service can without cleaning up. kill: SIGKILL.
StopSignal = Literal["term", "immediate", "kill"]
Report = Callable[[str], None]

LOG_TAIL_LINES = 15


class StackError(RuntimeError):
    """Raised if the local stack cannot do what was requested. The message has what the operator can do."""


class ComponentMissing(StackError):
    """Raised if a program that a service needs is not installed on this machine, or is too old."""


@dataclass(frozen=True)
class ServiceStatus:
    """The status of one service. silent: its process runs but does not answer."""

    name: ServiceName
    state: ServiceState
    pid: int | None
    port: int | None
    data_dir: Path
    log_path: Path


@dataclass(frozen=True)
class Place:
    """One service's folder, data, log, and ports by purpose."""

    home: Path
    data: Path
    log: Path
    ports: Mapping[str, int]


@dataclass(frozen=True)
class Launch:
    """The command that starts a service's process. `user` is set if it must not run as root."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    user: str | None = None


class Service(Protocol):
    """One kind of server. Has no state: everything is in its Place."""

    name: ServiceName
    port_names: tuple[str, ...]
    ready_timeout_seconds: float
    # A process that runs and does not answer may have been started a moment ago by a killed `up`, or
    # may hang: it gets the time of a slow start, then it is replaced.
    silence_timeout_seconds: float

    def choose_data(self, home: Path) -> Path:
        """Returns the data folder for a new service; it need not exist. Called once per set of data."""

    def prepare(self, place: Place, report: Report) -> None:
        """Prepares the folders for a start of the server, which does not run. Idempotent, also after a crash.

        Raises StackError if a program is missing on the machine.
        """

    def launch(self, place: Place) -> Launch:
        """Returns the process to start. Called after `prepare`."""

    def answers(self, place: Place) -> bool:
        """Returns True if the server answers a real request. Takes seconds at most; never raises."""

    def stop_signal(self, how: StopSignal) -> Signals:
        """Returns the signal that has this effect on this server."""


def log_tail(path: Path) -> str:
    """Returns the last lines of a log, for an error message."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(it wrote no log)"
    return "\n".join(lines[-LOG_TAIL_LINES:]) or "(its log is empty)"
