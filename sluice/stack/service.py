"""What the stack asks of each of its services, and what it says about them."""

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
    """The local stack cannot do what was asked; one sentence says what the operator can do."""


class ComponentMissing(StackError):
    """A program that a service needs is not installed on this machine, or is too old."""


@dataclass(frozen=True)
class ServiceStatus:
    """What is known of one service. silent: its process lives but does not answer."""

    name: ServiceName
    state: ServiceState
    pid: int | None
    port: int | None
    data_dir: Path
    log_path: Path


@dataclass(frozen=True)
class Place:
    """Where one service lives: its folder, its data, its log and its ports by purpose."""

    home: Path
    data: Path
    log: Path
    ports: Mapping[str, int]


@dataclass(frozen=True)
class Launch:
    """How to start a service's process. `user` is set where it must not run as root."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    user: str | None = None


class Service(Protocol):
    """One kind of server. Holds no state of its own: everything is in its Place."""

    name: ServiceName
    port_names: tuple[str, ...]
    ready_timeout_seconds: float
    # One that lives and does not answer may have been started a moment ago by an `up` that was killed, or
    # may hang: it gets the time of a slow start, then it is replaced.
    silence_timeout_seconds: float

    def choose_data(self, home: Path) -> Path:
        """The data folder for a new service; it need not exist. Called once per life of the data."""

    def prepare(self, place: Place, report: Report) -> None:
        """Brings the folders into a state the server can start from. May run twice, and after a crash
        half way; the server does not run. Raises StackError if something is missing on the machine."""

    def launch(self, place: Place) -> Launch:
        """The process to start. Called after `prepare`."""

    def answers(self, place: Place) -> bool:
        """Whether a real request is answered now. Returns within seconds, never raises for a dead server."""

    def stop_signal(self, how: StopSignal) -> Signals:
        """The signal that has this effect on this server."""


def log_tail(path: Path) -> str:
    """The last lines of a log, for an error message."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(it wrote no log)"
    return "\n".join(lines[-LOG_TAIL_LINES:]) or "(its log is empty)"
