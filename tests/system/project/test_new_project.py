"""A project that `sluice new` wrote. The targets of its Makefile run its checks and apply its events."""

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from tests.waiting import wait_until

APPLYING = ("bridge", "worker")
CALLING = ("relay", "effects-worker", "rebuild-worker", "beat")
ROWS = [
    "order_id=o-1 customer=ann status=SHIPPED by ACME total_cents=11900 net_cents=10000 tax_cents=1900",
    "order_id=o-2 customer=bob status=PLACED total_cents=5950 net_cents=5000 tax_cents=950",
]
UNKNOWN_QUEUE = ("-A", "sluice.runtime.app", "worker", "-P", "solo", "-Q", "relay,order.9")


class Project:
    """A project that `sluice new` wrote. Prints the duration of each command."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self._begun = time.monotonic()

    def run(self, *words: str, code: int = 0) -> str:
        """Runs a command in the project. Returns its output."""
        begun = time.monotonic()
        done = subprocess.run(
            words, env=self.environ, cwd=self.folder, capture_output=True, text=True, check=False
        )
        print(f"{time.monotonic() - begun:5.1f} s  {' '.join(words)}")
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def running(self, commands: Sequence[Sequence[str]]) -> Iterator[None]:
        """Runs processes in the project. Ends them by SIGTERM, and asserts that they exit with 0."""
        log = self.folder / "processes.log"
        with log.open("w") as output:
            started = [
                subprocess.Popen(
                    words,
                    env=self.environ | {"SLUICE_HEALTH_FILE": str(self.folder / f"{number}.alive")},
                    cwd=self.folder,
                    stdout=output,
                    stderr=output,
                )
                for number, words in enumerate(commands)
            ]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
            codes = [process.wait() for process in started]
            print(log.read_text())  # pytest shows this output if the test fails.
        assert codes == [0] * len(codes)

    def note(self, what: str) -> None:
        """Prints `what`, and the time since the start."""
        print(f"{time.monotonic() - self._begun:5.1f} s  since the start: {what}")


def clean_environ(urls: StackUrls, project: Path) -> dict[str, str]:
    """Returns the environment of a shell in the project, with the addresses of the services."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    kept.pop("PYTHONPATH", None)
    settings = dict(line.split("=", 1) for line in (project / ".env").read_text().splitlines()[1:])
    return kept | urls.environ() | settings


def rename_topics(project: Path) -> None:
    """Gives the topics unique names, because the tests share one Kafka."""
    suffix = f"-new-{os.getpid()}"
    for name in ("my_shop/handlers.py", "events.jsonl"):
        text = (project / name).read_text()
        for topic in ('"orders"', '"order-events"'):
            text = text.replace(f"Topic({topic}", f'Topic({topic[:-1]}{suffix}"')
            text = text.replace(f'"topic": {topic}', f'"topic": {topic[:-1]}{suffix}"')
            text = text.replace(f"outgoing_topics = ({topic}", f'outgoing_topics = ({topic[:-1]}{suffix}"')
            text = text.replace(f"yield Emit({topic}", f'yield Emit({topic[:-1]}{suffix}"')
        (project / name).write_text(text)


def make_environment(project: Path) -> None:
    """Makes the environment as `make install` does, but installs only Sluice.

    The environment uses the dependencies of this Python.
    """
    environment = project / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = str(environment / "bin/python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install"]
    # pip checks the hash of the wheel, which the lock file contains.
    subprocess.run([*pip, "--quiet", "--no-index", "--no-deps", "-r", "sluice.lock"], cwd=project, check=True)
    assert (site / "sluice/__init__.py").exists()
    (environment / ".installed").touch()


@pytest.mark.parametrize(
    "install",
    [
        "by hand",
        # The doctor refuses the shared Postgres, which runs with fsync off.
        pytest.param("make install", marks=[pytest.mark.matrix, pytest.mark.own("postgres")]),
    ],
)
def test_the_project_passes_its_checks_and_applies_its_events(
    install: str, kafka: Stack, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "my-shop"
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "sluice.cli.main", "new", str(folder)], check=True)
    print(f"{time.monotonic() - begun:5.1f} s  sluice new")
    urls = StackUrls(database_url, redis_url, kafka.kafka_bootstrap_servers())
    project = Project(folder, clean_environ(urls, folder))
    if install == "by hand":
        make_environment(folder)
        project.note("environment made")
    else:
        project.run("make", "install")
    project.run("make", "check")
    assert "passed" in project.run("make", "test")

    rename_topics(folder)
    sluice = str(folder / ".venv/bin/sluice")
    project.run(sluice, "init", "--partitions", "1")
    python = str(folder / ".venv/bin/python")
    refused = project.run(python, "-m", "celery", *UNKNOWN_QUEUE, code=1)
    assert "there is no queue order.9; the queues are effects, maintenance, order.0, order.1," in refused
    assert "run `sluice relay`, and first `sluice init`" in refused
    processes = APPLYING if install == "by hand" else (*APPLYING, *CALLING)
    with project.running([(sluice, name) for name in processes]):
        project.run("make", "send")
        wait_until(lambda: shown(project) == ROWS, timeout_seconds=60, what="the rows are shown")
        project.note("the rows are shown")
        if install == "make install":
            called, log = "confirmation of order o-1 sent to ann@example.org", folder / "processes.log"
            wait_until(lambda: called in log.read_text(), timeout_seconds=60, what="the call is made")
            wait_until(lambda: has_no_problem(project), timeout_seconds=60, what="no problem is found")
            assert "orders-new" in project.run("make", "status")


def shown(project: Project) -> list[str]:
    """Returns the rows that the project prints."""
    return [line for line in project.run("make", "show").splitlines() if line.startswith("order_id=")]


def has_no_problem(project: Project) -> bool:
    """Returns True if `sluice doctor` finds no problem. Otherwise prints what it found."""
    command = [str(project.folder / ".venv/bin/sluice"), "doctor"]
    done = subprocess.run(command, env=project.environ, cwd=project.folder, capture_output=True)
    found = done.stdout.decode()
    print(found)
    return "no problem found" in found
