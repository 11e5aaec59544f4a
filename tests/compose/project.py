"""Runs the compose file as a project with its own name, in the container engine of this machine."""

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
IMAGE = "sluice:local"

# In the order of preference. `docker-compose` is Compose as a separate program.
CANDIDATES = (("docker", "compose"), ("docker-compose",), ("podman", "compose"))
# Required by the compose file.
PASSWORD_NAMES = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "KAFKA_PASSWORD", "FLOWER_PASSWORD")
PROBE_SECONDS = 60.0  # an engine may start only when its first client connects
COMMAND_SECONDS = 120.0
UP_SECONDS = 1_200.0  # the engine pulls images, and builds the image of Sluice
STOP_SECONDS = 10  # shorter than in the file, because the data are deleted afterwards
LOG_LINES = 60

Health = Literal["healthy", "starting", "unhealthy", "done", "failed"]


class NoEngine(Exception):
    """No container engine on this machine can run the file."""


@dataclass(frozen=True)
class Container:
    """The current state of one container of the project."""

    service: str
    name: str
    hostname: str
    health: Health
    memory_bytes: int
    process_limit: int


def find_compose() -> tuple[str, ...]:
    """Returns the words of the first compose command that reads the file and whose engine answers.

    Raises NoEngine, whose text names what to install.
    """
    refusals = []
    for words in CANDIDATES:
        if shutil.which(words[0]) is None:
            continue
        for probe in ("version", "config", "ps"):
            command = [*words, "-f", str(COMPOSE_FILE), probe]
            try:
                done = subprocess.run(
                    command,
                    env=os.environ | dict.fromkeys(PASSWORD_NAMES, "unused"),
                    capture_output=True,
                    text=True,
                    timeout=patient(PROBE_SECONDS),
                    check=False,
                )
            except subprocess.TimeoutExpired:
                refusals.append(f"`{' '.join(words)} {probe}` does not answer")
                break
            if done.returncode:
                said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
                refusals.append(f"`{' '.join(words)} {probe}` failed: {said}")
                break
        else:
            return words
    raise NoEngine(
        "The compose file needs a running container engine with Compose 2: install Docker with its Compose"
        " plugin, or Podman with a compose provider, and start it" + "".join(f"; {told}" for told in refusals)
    )


def read_health(state: Mapping[str, Any]) -> Health:
    """Returns the health from the state of a container, as `inspect` prints it."""
    status = state["Status"].lower()
    if status in ("exited", "stopped", "dead"):
        return "done" if state["ExitCode"] == 0 else "failed"
    health = (state.get("Health") or state.get("Healthcheck") or {}).get("Status", "")
    if status == "running" and health in ("healthy", "unhealthy"):
        return "healthy" if health == "healthy" else "unhealthy"
    return "starting"


@dataclass(frozen=True)
class ComposeProject:
    """A project that runs the file `docker-compose.yml` of the folder.

    `environment` and `env_files` have the values of ${…} in the file. `overrides` are files that change its
    services.
    """

    compose: tuple[str, ...]
    name: str
    environment: Mapping[str, str]
    env_files: tuple[Path, ...]
    overrides: tuple[Path, ...] = ()
    folder: Path = ROOT

    @property
    def engine(self) -> str:
        """Returns the program that inspects and kills single containers."""
        return "podman" if self.compose[0] == "podman" or not shutil.which("docker") else "docker"

    def up(self, *options: str, **scale: int) -> None:
        """Starts the services that do not run, and scales the given services. Compose prints its progress."""
        scales = [f"--scale={service}={count}" for service, count in scale.items()]
        self._run([*self._compose(), "up", "-d", *options, *scales], timeout_seconds=UP_SECONDS)

    def run(self, service: str, *words: str, given: str = "") -> str:
        """Runs a command that reads `given`, in a new container of the service. Returns its output."""
        return self._output([*self._compose(), "run", "--rm", "-T", service, *words], given=given)

    def build_service(self) -> None:
        """Builds the image of Sluice."""
        self._run([*self._compose(), "build"], timeout_seconds=UP_SECONDS)

    def build_image(self, image: str, folder: Path) -> None:
        """Builds an image from the Dockerfile in the folder."""
        self._output([self.engine, "build", "-q", "-t", image, str(folder)])

    def image_size(self) -> int:
        """Returns the size of the image of Sluice in bytes, with its base image."""
        return int(self._output([self.engine, "image", "inspect", "-f", "{{.Size}}", IMAGE]))

    def run_image(self, *words: str) -> str:
        """Runs a command in the image of Sluice, and returns its output."""
        return self._output([self.engine, "run", "--rm", "--network=none", IMAGE, *words])

    def execute(self, container: Container, *words: str) -> str:
        """Runs a command in the container, and returns its output."""
        return self._output([self.engine, "exec", container.name, *words])

    def containers(self) -> list[Container]:
        """Returns all containers of the project, including those that have ended."""
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
                    one["HostConfig"]["Memory"] or 0,
                    one["HostConfig"]["PidsLimit"] or 0,
                )
                for one in found
            ),
            key=lambda one: one.name,
        )

    def kill(self, container: Container) -> None:
        """Kills the container with SIGKILL. The engine does not restart it."""
        self._output([self.engine, "kill", "-s", "KILL", container.name])

    def print_logs(self) -> None:
        """Prints the last log lines of the containers that are not healthy; of all if all are healthy."""
        containers = self.containers()
        unwell = [one for one in containers if one.health not in ("healthy", "done")]
        for one in unwell or containers:
            print(f"--- {one.name} ({one.health})", flush=True)
            command = [self.engine, "logs", "--tail", str(LOG_LINES), one.name]
            subprocess.run(command, stderr=subprocess.STDOUT, timeout=patient(COMMAND_SECONDS), check=False)

    def down(self) -> None:
        """Removes containers and networks of the project, and keeps its data."""
        self._run([*self._compose(), "down"], timeout_seconds=COMMAND_SECONDS)

    def wipe(self) -> None:
        """Removes containers, networks and volumes of the project. Ctrl-C does not interrupt the command."""
        command = [*self._compose(), "down", "-v", "--remove-orphans", "-t", str(STOP_SECONDS)]
        self._run(command, timeout_seconds=COMMAND_SECONDS, own_session=True)

    def _compose(self) -> list[str]:
        # Neither the `.env` file nor an override file of the developer changes the project.
        files = [f"--file={file}" for file in (self.folder / COMPOSE_FILE.name, *self.overrides)]
        values = [f"--env-file={file}" for file in self.env_files]
        return [*self.compose, *files, *values, "-p", self.name]

    def _environ(self) -> dict[str, str]:
        ours = ("SLUICE_", "SHOP_", *PASSWORD_NAMES)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return clean | dict(self.environment)

    def _run(self, command: list[str], *, timeout_seconds: float, own_session: bool = False) -> None:
        done = subprocess.run(
            command,
            env=self._environ(),
            cwd=self.folder,
            timeout=patient(timeout_seconds),
            check=False,
            start_new_session=own_session,
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}"

    def _output(self, command: list[str], *, given: str = "") -> str:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            timeout=patient(COMMAND_SECONDS),
            check=False,
            env=self._environ(),
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@contextmanager
def wiped(project: ComposeProject) -> Iterator[ComposeProject]:
    """Yields the project, and always removes it and its data at the end. Prints its logs after a failure."""
    try:
        yield project
    except KeyboardInterrupt:
        raise
    except BaseException:
        project.print_logs()
        raise
    finally:
        # Without this, a second Ctrl-C would leave half of the containers.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            project.wipe()
        finally:
            signal.signal(signal.SIGINT, before)
