"""On a real worker, an event whose handler runs too long or ends its process becomes one dead letter."""

import signal
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.system.conftest import MakeDeployment
from tests.system.worker import limited_app

APP = "tests.system.worker.limited_app"
LIMIT = 1.0
NEIGHBOURS = 20


@dataclass(frozen=True)
class Acting:
    """An event of the application."""

    number: int
    key: str
    do: str = "nothing"
    topic: str = "actors"
    reads: bool = False

    @property
    def value(self) -> dict[str, Any]:
        """The event as plain JSON."""
        data = {"do": self.do, "number": self.number, "reads": self.reads}
        return {"event_id": f"{self.topic}-{self.number}", "type": "acted", "version": 1, "data": data}


def events(bad: dict[str, bool]) -> list[Acting]:
    """Returns each bad event between two good events of other keys. Adds good events of another type."""
    found: list[Acting] = []
    for do, reads in bad.items():
        found.append(Acting(len(found), f"before {do}"))
        found.append(Acting(len(found), do, do, reads=reads))
        found.append(Acting(len(found), f"after {do}"))
    return found + [Acting(n, f"k{n}", topic="bystanders") for n in range(NEIGHBOURS)]


def letters(deployment: Deployment) -> dict[str, tuple[str, str]]:
    """Returns key → error class and text of its dead letter."""
    with deployment.session.connection.cursor() as cursor:
        cursor.execute("SELECT convert_from(key, 'UTF8'), error_class, error_text FROM sluice.dead_letters")
        return {key: (error_class, text) for key, error_class, text in cursor.fetchall()}


def deaths_left(deployment: Deployment) -> int:
    with deployment.session.connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM sluice.handler_deaths)"
            "     + (SELECT count(*) FROM sluice.handler_notes WHERE NOT is_batch)"
        )
        return int(cursor.fetchall()[0][0])


def check_settled(deployment: Deployment, produced: list[Acting], expected: dict[str, str]) -> None:
    """Asserts that each bad event has a dead letter of its class, and that every other event is applied."""
    deployment.wait_settled(timeout_seconds=120)
    found = letters(deployment)
    assert {key: error_class for key, (error_class, _) in found.items()} == expected
    good = {event.key for event in produced if event.key not in expected}
    assert set(deployment.rows(limited_app.acted)) == good
    assert Counter(deployment.outcomes()) == Counter(applied=len(good), dead=len(expected))
    assert deaths_left(deployment) == 0


def make(make_deployment: MakeDeployment) -> Deployment:
    limits = {"SLUICE_HANDLER_SECONDS": str(LIMIT), "SLUICE_HANDLER_EFFECTS": "1000"}
    deployment = make_deployment(APP, partitions=1, **limits)
    deployment.run.start_bridge()
    return deployment


def run(make_deployment: MakeDeployment, expected: dict[str, str], *, reads: bool = False) -> None:
    deployment = make(make_deployment)
    worker = deployment.run.start_supervised_worker()
    produced = events(dict.fromkeys(expected, reads))
    deployment.produce(produced)
    check_settled(deployment, produced, expected)
    assert worker.stop() == 0


TIMED_OUT, ENDED = "HandlerTimedOut", "HandlerEndedProcess"


def test_a_handler_over_its_limits_makes_one_dead_letter(make_deployment: MakeDeployment) -> None:
    run(
        make_deployment,
        {"sleeps": TIMED_OUT, "loops with the GIL": TIMED_OUT, "calls sys.exit": "SystemExit"},
    )


@pytest.mark.matrix
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize(
    "expected",
    [
        {
            "computes": TIMED_OUT,
            "matches slowly": TIMED_OUT,
            "waits": TIMED_OUT,
            "yields": "TooManyEffects",
            "runs out of memory": "MemoryError",
        },
        {"suppresses exceptions": TIMED_OUT, "computes with the GIL": TIMED_OUT},
        {"exits": ENDED},
        {"crashes": ENDED},
        {"aborts": ENDED, "is killed": ENDED},
        {"exits in a thread": ENDED},
    ],
    ids=lambda expected: ", ".join(expected) if isinstance(expected, dict) else None,
)
def test_every_kind_of_failing_handler_makes_one_dead_letter(
    make_deployment: MakeDeployment, expected: dict[str, str], reads: bool
) -> None:
    run(make_deployment, expected, reads=reads)


@pytest.mark.matrix
@pytest.mark.parametrize("is_supervised", [False, True])
def test_two_kills_in_one_handler_make_no_dead_letter(
    make_deployment: MakeDeployment, is_supervised: bool
) -> None:
    deployment = make(make_deployment)
    produced = events({"is killed twice": False})
    deployment.produce(produced)
    if is_supervised:
        deployment.run.start_supervised_worker()
    else:
        start_again(deployment, times=3)
    check_settled(deployment, produced, {})


@pytest.mark.matrix
@pytest.mark.parametrize("reads", [False, True])
def test_without_a_supervisor_the_fourth_worker_makes_a_dead_letter_of_the_event(
    make_deployment: MakeDeployment, reads: bool
) -> None:
    """The first three workers end in the handler of the event, and each leaves a note of the event."""
    deployment = make(make_deployment)
    produced = events({"exits": reads})
    deployment.produce(produced)
    start_again(deployment, times=5)
    check_settled(deployment, produced, {"exits": ENDED})
    assert deployment.run.processes[-1].stop() == 0


@pytest.mark.matrix
@pytest.mark.parametrize("point", ["apply.begun", "apply.before_commit", "apply.committed"])
def test_kills_outside_of_handlers_are_not_counted(make_deployment: MakeDeployment, point: str) -> None:
    """Each of four workers is killed in its first batch, which has the same events for all of them."""
    deployment = make(make_deployment)
    produced = events({"nothing": True})
    deployment.produce(produced)
    # After the commit of the first worker, a next worker would not get the same events.
    for number in range(1 if point == "apply.committed" else 4):
        wait_for_end(
            deployment, deployment.run.start_worker(name=f"killed{number}", faults=f"{point}:1:kill")
        )
        assert deaths_left(deployment) == 0
    deployment.run.start_worker(name="last")
    check_settled(deployment, produced, {})


@pytest.mark.matrix
@pytest.mark.parametrize("is_supervised", [False, True])
@pytest.mark.parametrize(("stop", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 1)])
def test_a_stop_signal_in_a_handler_ends_the_worker_after_its_batch(
    make_deployment: MakeDeployment, is_supervised: bool, stop: signal.Signals, exit_code: int
) -> None:
    """The exit codes are those of Celery."""
    deployment = make_deployment(APP, partitions=1)
    deployment.run.start_bridge()
    produced = events({"waits for the test": False})
    deployment.produce(produced)
    run = deployment.run
    worker = run.start_supervised_worker() if is_supervised else run.start_worker()
    deployment.wait_until((run.folder / "handler-runs").exists, timeout_seconds=60, what="the handler runs")
    worker.signal(stop)
    (run.folder / "handler-may-end").touch()
    wait_for_end(deployment, worker)
    assert worker.exit_code == exit_code
    assert letters(deployment) == {}
    assert "waits for the test" in deployment.rows(limited_app.acted)
    run.start_worker(name="next")
    check_settled(deployment, produced, {})


def start_again(deployment: Deployment, *, times: int) -> None:
    """Starts workers without a supervisor, each after the end of the previous worker."""
    for number in range(times):
        worker = deployment.run.start_worker(name=f"worker{number}")
        if number < times - 1:
            wait_for_end(deployment, worker)


def wait_for_end(deployment: Deployment, worker: RunningProcess) -> None:
    deployment.wait_until(
        lambda: worker.exit_code is not None, timeout_seconds=60, what=f"{worker.name} has ended"
    )
