"""Sluice's own processes on this machine: started, killed and watched by demo, tests and bench."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from sluice.runtime.celery_options import EFFECTS_QUEUE, MAINTENANCE_QUEUE, REBUILD_QUEUE, RELAY_QUEUE
from sluice.runtime.service_urls import StackUrls
from sluice.runtime.settings import PREFIX
from sluice.stack.ports import choose_ports

TERM_PATIENCE_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_PROJECT = Path(__file__).parents[2]


@dataclass
class RunningProcess:
    """One process of ours and where its output goes."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    metrics_port: int = 0
    """Where it serves its metrics; 0: nowhere."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; −9 after kill -9."""
        return self.popen.poll()

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        self.popen.kill()
        self.popen.wait()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT, …"""
        self.popen.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; kill -9 if that is not enough. Returns the exit code."""
        if self.exit_code is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.terminate()
            try:
                self.popen.wait(TERM_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.wait()

    def tail(self, lines: int = 20) -> str:
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class LocalRun:
    """Processes that share one deployment; all are ended on leaving the `with` block."""

    urls: StackUrls
    folder: Path
    handlers: str = "examples.shop.handlers"
    group: str = "sluice"
    environment: Mapping[str, str] = field(default_factory=dict)
    python_path: Path | None = None
    with_metrics: bool = False
    """Whether processes started from now on serve their metrics."""
    processes: list[RunningProcess] = field(default_factory=list)

    def __enter__(self) -> "LocalRun":
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def environ(self, faults: str = "") -> dict[str, str]:
        """The environment of the processes: ours, without any SLUICE_ name that was there before."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        path = os.pathsep.join(str(p) for p in (self.python_path, _PROJECT) if p is not None)
        return (
            clean
            | self.urls.environ()
            | {"SLUICE_HANDLERS": self.handlers, "SLUICE_GROUP": self.group, "SLUICE_SOURCE": self.group}
            | {"PYTHONPATH": path}
            | ({"SLUICE_FAULTS": faults} if faults else {})
            | dict(self.environment)
        )

    def start_bridge(self, *, name: str = "bridge", faults: str = "") -> RunningProcess:
        """A bridge."""
        return self._start(name, [sys.executable, "-m", "sluice.bridge"], faults)

    def start_worker(
        self,
        queues: Iterable[str] | None = None,
        *,
        name: str = "worker",
        pool: str = "solo",
        faults: str = "",
    ) -> RunningProcess:
        """A Celery worker: with its share of the queues, or on exactly these."""
        options = ["-P", pool, "-n", f"{name}@%h", "--without-gossip", "--without-mingle"]
        if queues is not None:
            options += ["-Q", ",".join(queues)]
        return self._start(name, [*_celery("worker"), *options], faults)

    def start_relay(self, *, name: str = "relay", faults: str = "") -> RunningProcess:
        """A worker for the relay and maintenance; nothing comes of it without a beat, or a kick."""
        return self.start_worker((RELAY_QUEUE, MAINTENANCE_QUEUE), name=name, faults=faults)

    def start_effects(
        self, *, name: str = "effects", pool: str = "prefork", faults: str = ""
    ) -> RunningProcess:
        """A worker that makes calls. With the pool "solo" a fault ends all of it, not one of its children."""
        return self.start_worker((EFFECTS_QUEUE,), name=name, pool=pool, faults=faults)

    def start_rebuilds(self, *, name: str = "rebuild", faults: str = "") -> RunningProcess:
        """A worker that rebuilds; a beat and a worker for maintenance tell it what lags."""
        return self.start_worker((REBUILD_QUEUE,), name=name, faults=faults)

    def start_beat(self, *, name: str = "beat") -> RunningProcess:
        """A beat; of several one beats."""
        return self._start(name, _celery("beat"))

    def start_flower(self, port: int) -> RunningProcess:
        """Flower on a port of the loopback; its API answers without a login."""
        options = [f"--port={port}", "--address=127.0.0.1"]
        return self._start(
            "flower", [*_celery("flower"), *options], extra={"FLOWER_UNAUTHENTICATED_API": "true"}
        )

    def run_sluice(self, *words: str) -> str:
        """`sluice …` to its end; what it printed. Raises CalledProcessError for another exit code than 0."""
        command = [sys.executable, "-m", "sluice.cli.main", *words]
        done = subprocess.run(
            command, env=self.environ(), cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout

    def stop_all(self) -> None:
        """Ends what still runs: all are asked first, then waited for."""
        for process in self.processes:
            if process.exit_code is None:
                process.popen.send_signal(signal.SIGCONT)
                process.popen.terminate()
        for process in self.processes:
            process.stop()

    def _start(
        self, name: str, command: list[str], faults: str = "", extra: Mapping[str, str] | None = None
    ) -> RunningProcess:
        number = sum(p.name == name for p in self.processes)
        log = self.folder / (f"{name}.log" if number == 0 else f"{name}-{number}.log")
        own = {"SLUICE_HEALTH_FILE": str(self.folder / f"{name}.alive")}
        port = self._free_port() if self.with_metrics else 0
        if port:
            own["SLUICE_METRICS_PORT"] = str(port)
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environ(faults) | own | dict(extra or {}),
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        process = RunningProcess(name, popen, log, port)
        self.processes.append(process)
        return process

    def _free_port(self) -> int:
        taken = {process.metrics_port for process in self.processes}
        return choose_ports(("metrics",), {}, taken)["metrics"]


def _celery(command: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "sluice.runtime.app", command]


def _end_with_parent() -> None:
    # So that nothing is left running even after kill -9 of the demo or of pytest.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
