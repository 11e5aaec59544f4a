"""Commands on a standby and on a read-only server. Reading commands work. Writing commands fail."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from examples.shop.generate import generate
from sluice.cli.main import app
from sluice.db.connection import Session
from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment
from tests.system.project.test_physical_copy import physical_copy

pytestmark = pytest.mark.matrix

PROJECTION = "billing_line_items"
READING = {
    "status": (0,),
    "status --json": (0,),
    "workers": (0,),
    "doctor": (0, 1),
    "verify": (0, 1),
    "trace TOPIC:0:0": (0,),
    "outbox ls": (0,),
    "outbox ls --refused": (0,),
    "effects ls": (0,),
    "effects ls --conflicts": (0,),
    "dlq ls": (0,),
    "dlq show 1": (0, 2),
    "dlq export --all": (0,),
    f"rebuild plan {PROJECTION}": (0, 1),
    "rebuild status": (0,),
    "queue ls": (0,),
    "redis ls": (0,),
    "audit ls": (0,),
}
"""Maps command → the exit codes that are allowed."""
WRITING = (
    "init",
    "pause --topic TOPIC --reason test",
    "resume --topic TOPIC --reason test",
    "accept TOPIC --reason test --yes",
    "reshard payment 8 --reason test --yes",
    "skip TOPIC:0:0 --reason test --yes",
    "outbox retry --all --reason test",
    "outbox drop --all --reason test --yes",
    "effects pause --reason test",
    "effects settle --all --as failed --reason test --yes",
    "dlq redrive --all --reason test --yes",
    "dlq drop 1 --reason test --yes",
    "dlq resolve 1 --reason test",
    "queue resume payment.0 --accept-deaths 1 --reason test --yes",
    f"rebuild start {PROJECTION} --reason test",
    f"rebuild swap {PROJECTION} --reason test --yes",
    "redis clean other- --reason test --yes",
)
Run = Callable[[str], tuple[int, str]]


@pytest.fixture(params=["standby", "refuses writes"])
def run(request: pytest.FixtureRequest, make_deployment: MakeDeployment, postgres: Stack) -> Iterator[Run]:
    """Runs `sluice …` in this process on the read-only server. Returns the exit code and the output."""
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.produce(generate("payments", count=20, seed=1))
    deployment.wait_settled()
    name = make_url(deployment.urls.database_url).database
    assert name is not None
    if request.param == "standby":
        with physical_copy(postgres, "--write-recovery-conf") as standby:
            yield _runner(deployment, standby.database_url(name))
        return
    with closing(Session(deployment.urls.database_url, application_name="test")) as session:
        session.command(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    yield _runner(deployment, deployment.urls.database_url)


def _runner(deployment: Deployment, database_url: str) -> Run:
    environ = {**deployment.run.environ(), "SLUICE_DATABASE_URL": database_url}

    def run(command: str) -> tuple[int, str]:
        words = command.replace("TOPIC", f"payments{deployment.topic_suffix}").split()
        result = CliRunner().invoke(app, words, env=environ)
        return result.exit_code, result.output

    return run


def test_reading_commands_work_and_writing_commands_fail_with_one_sentence(run: Run) -> None:
    failed = {}
    for command, codes in READING.items():
        exit_code, output = run(command)
        complaints = ("session is read-only", "cannot connect", "during recovery", "Traceback")
        if exit_code not in codes or any(complaint in output for complaint in complaints):
            failed[command] = (exit_code, output)
    for command in WRITING:
        exit_code, output = run(command)
        if exit_code != 2 or output.count("\n") != 1 or "; connect to the primary" not in output:
            failed[command] = (exit_code, output)
    assert failed == {}
