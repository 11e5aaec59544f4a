"""The compose file as a project of its own, in whatever engine there is; gone when the `with` block ends."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sluice.stack.patience import patient

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"

# In this order. The second is the first as a program of its own.
CANDIDATES = (("docker", "compose"), ("docker-compose",), ("podman", "compose"))
PROBE_SECONDS = 60.0  # an engine that starts with its first client
COMMAND_SECONDS = 120.0
UP_SECONDS = 1_200.0  # images are pulled, ours is built
STOP_SECONDS = 10  # instead of what the file grants: the data go, too
LOG_LINES = 60

Health = Literal["healthy", "starting", "unhealthy", "done", "failed"]


class NoEngine(Exception):
    """There is nothing that can bring the file up."""


@dataclass(frozen=True)
class Container:
    """One container of the project, as it is now."""

    service: str
    name: str
    hostname: str
    health: Health


def find_compose() -> tuple[str, ...]:
    """The first compose command that reads the file, and whose engine answers, as words.

    Raises NoEngine with what to install.
    """
    refusals = []
    for words in CANDIDATES:
        if shutil.which(words[0]) is None:
            continue
        for probe in ("version", "config", "ps"):
            command = [*words, "-f", str(COMPOSE_FILE), probe]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=patient(PROBE_SECONDS), check=False
                )
            except subprocess.TimeoutExpired:
                refusals.append(f"`{' '.join(words)} {probe}` does not answer")
                break
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
                refusals.append(f"`{' '.join(words)} {probe}` says: {said}")
                break
        else:
            return words
    raise NoEngine(
        "The compose file needs a running container engine with Compose 2: install Docker with its Compose"
        " plugin, or Podman with a compose provider, and start it" + "".join(f"; {told}" for told in refusals)
    )


def read_health(state: Mapping[str, Any]) -> Health:
    """What `inspect` says of a container's state."""
    status = state["Status"].lower()
    if status in ("exited", "stopped", "dead"):
        return "done" if state["ExitCode"] == 0 else "failed"
    health = (state.get("Health") or state.get("Healthcheck") or {}).get("Status", "")
    if status == "running" and health in ("healthy", "unhealthy"):
        return "healthy" if health == "healthy" else "unhealthy"
    return "starting"


@dataclass(frozen=True)
class ComposeProject:
    """A project of the file. `environment`: the names in the file's ${…} that matter here."""

    compose: tuple[str, ...]
    name: str
    environment: Mapping[str, str]

    @property
    def engine(self) -> str:
        """The program that speaks of single containers."""
        return "podman" if self.compose[0] == "podman" or not shutil.which("docker") else "docker"

    def up(self, *options: str, **scale: int) -> None:
        """Brings up what is missing, with so many of some services. Its own progress is shown."""
        scales = [f"--scale={service}={count}" for service, count in scale.items()]
        self._run([*self._compose(), "up", "-d", *options, *scales], timeout_seconds=UP_SECONDS)

    def containers(self) -> list[Container]:
        """All of the project, also those that ended."""
        label = f"label=com.docker.compose.project={self.name}"
        ids = self._output([self.engine, "ps", "-aq", "--filter", label]).split()
        found = json.loads(self._output([self.engine, "inspect", *ids])) if ids else []
        return sorted(
            (
                Container(
                    one["Config"]["Labels"]["com.docker.compose.service"],
                    one["Name"].removeprefix("/"),
                    one["Config"]["Hostname"],
                    read_health(one["State"]),
                )
                for one in found
            ),
            key=lambda one: one.name,
        )

    def kill(self, container: Container) -> None:
        """kill -9; nobody starts it again."""
        self._output([self.engine, "kill", "-s", "KILL", container.name])

    def print_logs(self) -> None:
        """The ends of the logs of what is not well; of all if all are."""
        containers = self.containers()
        unwell = [one for one in containers if one.health not in ("healthy", "done")]
        for one in unwell or containers:
            print(f"--- {one.name} ({one.health})", flush=True)
            command = [self.engine, "logs", "--tail", str(LOG_LINES), one.name]
            subprocess.run(command, stderr=subprocess.STDOUT, timeout=patient(COMMAND_SECONDS), check=False)

    def down(self) -> None:
        """Nothing of it is left but the images. It does not hear Ctrl-C."""
        command = [*self._compose(), "down", "-v", "--remove-orphans", "-t", str(STOP_SECONDS)]
        self._run(command, timeout_seconds=COMMAND_SECONDS, own_session=True)

    def _compose(self) -> list[str]:
        # Not the `.env` of whoever tests here, nor an override beside the file.
        named = ["-f", str(COMPOSE_FILE), "--env-file", os.devnull, "-p", self.name]
        return [*self.compose, *named]

    def _environ(self) -> dict[str, str]:
        ours = ("SLUICE_", "SHOP_")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return clean | dict(self.environment)

    def _run(self, command: list[str], *, timeout_seconds: float, own_session: bool = False) -> None:
        done = subprocess.run(
            command,
            env=self._environ(),
            cwd=ROOT,
            timeout=patient(timeout_seconds),
            check=False,
            start_new_session=own_session,
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}"

    def _output(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=patient(COMMAND_SECONDS),
            check=False,
            env=self._environ(),
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@contextmanager
def brought_down(project: ComposeProject) -> Iterator[ComposeProject]:
    """The project, taken down at the end, whatever happens in between; logs are printed where it failed."""
    try:
        yield project
    except KeyboardInterrupt:
        raise
    except BaseException:
        project.print_logs()
        raise
    finally:
        # Whoever presses Ctrl-C twice would else leave half of it.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            project.down()
        finally:
            signal.signal(signal.SIGINT, before)
