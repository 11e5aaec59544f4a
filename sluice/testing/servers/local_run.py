"""Sluice's own processes on this machine: started, killed and watched by tests."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from sluice.runtime.celery_options import EFFECTS_QUEUE, MAINTENANCE_QUEUE, REBUILD_QUEUE, RELAY_QUEUE
from sluice.runtime.service_urls import StackUrls
from sluice.runtime.settings import PREFIX
from sluice.stack.patience import patient
from sluice.stack.ports import choose_ports
from sluice.testing.servers.processes import Child, Start, start_new

TERM_PATIENCE_SECONDS = 30.0
CELERY = ("-A", "sluice.runtime.app")
COMMAND_SECONDS = 120.0  # time limit of a command that ends by itself


@dataclass
class RunningProcess:
    """One process of Sluice, and the file with its output."""

    name: str
    popen: Child
    log: Path
    metrics_port: int = 0
    """The port of its metrics; 0 means that it has no metrics."""

    @property
    def pid(self) -> int:
        """Returns the process id."""
        return self.popen.pid

    @property
    def exit_code(self) -> int | None:
        """Returns the exit code: None while the process runs, −9 after kill -9."""
        return self.popen.poll()

    def kill(self) -> None:
        """Kills the process with SIGKILL and waits for its end."""
        self.popen.kill()
        self.popen.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, such as SIGSTOP or SIGCONT."""
        self.popen.send_signal(number)

    def stop(self) -> int:
        """Sends SIGTERM, and SIGKILL if the process does not end. Returns the exit code."""
        if self.exit_code is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(patient(TERM_PATIENCE_SECONDS))
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.wait()

    def tail(self, lines: int = 20) -> str:
        """Returns the end of the output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class LocalRun:
    """Processes that share one deployment. The end of the `with` block ends all of them."""

    urls: StackUrls
    folder: Path
    handlers: str
    source: str = "sluice"
    """The CloudEvents source of the events that this run emits."""
    environment: Mapping[str, str] = field(default_factory=dict)
    python_path: Path | None = None
    with_metrics: bool = False
    """True if the processes that are started from now on serve metrics."""
    processes: list[RunningProcess] = field(default_factory=list)
    start: Start = start_new
    """The function that starts a process: as a new interpreter, or by a fork."""

    def __enter__(self) -> "LocalRun":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def environ(self, faults: str = "") -> dict[str, str]:
        """The environment of the processes: the environment of this process without its SLUICE_ variables."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        first = [] if self.python_path is None else [str(self.python_path)]
        path = os.pathsep.join([*first, *_own_folders()])
        return (
            clean
            | self.urls.environ()
            | {"SLUICE_HANDLERS": self.handlers, "SLUICE_SOURCE": self.source}
            | {"PYTHONPATH": path}
            | ({"SLUICE_FAULTS": faults, "SLUICE_ALLOW_FAULTS": "1"} if faults else {})
            | dict(self.environment)
        )

    def start_bridge(self, *, name: str = "bridge", faults: str = "") -> RunningProcess:
        """Starts a bridge."""
        return self._start(name, "sluice.bridge", [], faults)

    def start_worker(
        self,
        queues: Iterable[str] | None = None,
        *,
        name: str = "worker",
        pool: str = "solo",
        faults: str = "",
    ) -> RunningProcess:
        """Starts a Celery worker with a share of all queues, or with exactly these queues."""
        options = ["-P", pool, "-n", f"{name}@%h"]
        if queues is not None:
            options += ["-Q", ",".join(queues)]
        return self._start(name, "celery", [*CELERY, "worker", *options], faults)

    def start_supervised_worker(
        self, *words: str, command: str = "worker", name: str = "worker", faults: str = ""
    ) -> RunningProcess:
        """Starts `sluice worker …` or a similar command. The process is the supervisor of its worker."""
        return self._start(name, "sluice.cli.main", [command, "--name", name, *words], faults)

    def start_relay(self, *, name: str = "relay", faults: str = "") -> RunningProcess:
        """Starts a worker for the relay and maintenance. The worker needs a beat, or a test that
        starts its tasks.
        """
        return self.start_worker((RELAY_QUEUE, MAINTENANCE_QUEUE), name=name, faults=faults)

    def start_effects(
        self, *, name: str = "effects", pool: str = "prefork", faults: str = ""
    ) -> RunningProcess:
        """Starts a worker that makes calls. With the pool "solo" a fault ends the whole worker."""
        return self.start_worker((EFFECTS_QUEUE,), name=name, pool=pool, faults=faults)

    def start_rebuilds(self, *, name: str = "rebuild", faults: str = "") -> RunningProcess:
        """Starts a worker that rebuilds. It needs a beat and a worker for maintenance, which start
        its tasks.
        """
        return self.start_worker((REBUILD_QUEUE,), name=name, faults=faults)

    def start_beat(self, *, name: str = "beat") -> RunningProcess:
        """Starts a beat. If several beats run, only one of them schedules."""
        return self._start(name, "celery", [*CELERY, "beat"])

    def start_flower(self, port: int, *, environ: Mapping[str, str] | None = None) -> RunningProcess:
        """Starts Flower on a port of the loopback. The API of Flower answers without a login."""
        options = [f"--port={port}", "--address=127.0.0.1"]
        extra = {"FLOWER_UNAUTHENTICATED_API": "true", **(environ or {})}
        return self._start("flower", "celery", [*CELERY, "flower", *options], extra=extra)

    def start_celery(self, *words: str) -> RunningProcess:
        """Starts `celery …` of this application, for a command that ends by itself."""
        return self._start(f"celery {words[0]}", "celery", [*CELERY, *words])

    def run_sluice(self, *words: str) -> str:
        """Runs `sluice …` and returns its output. Raises CalledProcessError if it fails."""
        done = self.sluice(*words)
        output, errors = done.stdout.decode(), done.stderr.decode()
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, done.args, output, errors)
        return output

    def sluice(
        self,
        *words: str,
        given: bytes | None = None,
        environ: Mapping[str, str] | None = None,
        faults: str = "",
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs one command to its end, with `given` as its input through a pipe. Raises TimeoutExpired."""
        command = ["sluice", *words]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, _given(given) as read:
            child = self.start(
                "sluice.cli.main",
                words,
                environ=self.environ(faults) | dict(environ or {}),
                folder=self.folder,
                files=(read, output.fileno(), errors.fileno()),
            )
            try:
                code = child.wait(patient(COMMAND_SECONDS))
            finally:
                child.kill()
                child.wait()
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(command, code, output.read(), errors.read())

    def stop_all(self) -> None:
        """Ends the processes that still run: sends a signal to all of them, then waits for each process."""
        for process in self.processes:
            if process.exit_code is None:
                process.popen.send_signal(signal.SIGCONT)
                process.popen.terminate()
        for process in self.processes:
            process.stop()

    def _start(
        self,
        name: str,
        module: str,
        words: Sequence[str],
        faults: str = "",
        extra: Mapping[str, str] | None = None,
    ) -> RunningProcess:
        number = sum(p.name == name for p in self.processes)
        log = self.folder / (f"{name}.log" if number == 0 else f"{name}-{number}.log")
        own = {"SLUICE_HEALTH_FILE": str(self.folder / f"{name}.alive")}
        port = self._free_port() if self.with_metrics else 0
        if port:
            own["SLUICE_METRICS_PORT"] = str(port)
        with log.open("wb") as output, open(os.devnull, "rb") as nothing:
            child = self.start(
                module,
                words,
                environ=self.environ(faults) | own | dict(extra or {}),
                folder=self.folder,
                files=(nothing.fileno(), output.fileno(), output.fileno()),
            )
        process = RunningProcess(name, child, log, port)
        self.processes.append(process)
        return process

    def _free_port(self) -> int:
        taken = {process.metrics_port for process in self.processes}
        return choose_ports(("metrics",), {}, taken)["metrics"]


def _own_folders() -> list[str]:
    """Returns the folders in which this process finds modules that are not installed, so that the
    processes find these modules.
    """
    installed = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    found = (os.path.abspath(folder) for folder in sys.path)
    return [one for one in dict.fromkeys(found) if os.path.isdir(one) and not one.startswith(installed)]


@contextmanager
def _given(data: bytes | None) -> Iterator[int]:
    """Yields the descriptor of a pipe from which the data can be read, as from another command."""
    if data is None:
        with open(os.devnull, "rb") as nothing:
            yield nothing.fileno()
        return
    read, write = os.pipe()

    def feed() -> None:
        # A command that refuses its input ends before it has read all data.
        with suppress(BrokenPipeError), open(write, "wb") as pipe:
            pipe.write(data)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        yield read
    finally:
        os.close(read)
        feeding.join()
