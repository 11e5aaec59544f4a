"""The interface of the stack's services, and their status."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Literal, Protocol

ServiceName = Literal["kafka", "postgres", "redis"]
ServiceState = Literal["running", "silent", "stopped"]
# term: an orderly stop. immediate: the service stops as fast as it can and does not clean up. kill: SIGKILL.
StopSignal = Literal["term", "immediate", "kill"]
Report = Callable[[str], None]

LOG_TAIL_LINES = 15


class StackError(RuntimeError):
    """Raised if the local stack cannot do what was requested. The message contains the remedy."""


class ComponentMissing(StackError):
    """Raised if a program that a service needs is not installed on this machine, or is too old."""


@dataclass(frozen=True)
class ServiceStatus:
    """The status of one service. State "silent": its process runs but does not answer."""

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
    """One kind of server. An object has no state: all facts about the service are in its Place."""

    name: ServiceName
    port_names: tuple[str, ...]
    ready_timeout_seconds: float
    # How long a running process may not answer. It may hang, or an `up` that was killed may have just started
    # it. After this time it is killed and started again. The time is longer than a slow start takes.
    silence_timeout_seconds: float

    def choose_data(self, home: Path) -> Path:
        """Returns the data folder for a new service. The folder need not exist.

        Called once per set of data.
        """

    def prepare(self, place: Place, report: Report) -> None:
        """Prepares the folders before the server starts. Idempotent, even after a crash.

        Call it only while the server does not run. Raises StackError if a program is missing on the machine.
        """

    def launch(self, place: Place) -> Launch:
        """Returns the process to start. Called after `prepare`."""

    def answers(self, place: Place) -> bool:
        """Returns True if the server answers a request. Takes at most a few seconds. Never raises."""

    def stop_signal(self, how: StopSignal) -> Signals:
        """Returns the signal that stops this server in the way `how`."""


def log_tail(path: Path) -> str:
    """Returns the last lines of a log, for an error message."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(it wrote no log)"
    return "\n".join(lines[-LOG_TAIL_LINES:]) or "(its log is empty)"
