"""The compose file in a container engine: limits, logins, a user's image, and data that are kept."""

import base64
import json
import shutil
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
from confluent_kafka import KafkaException
from redis.exceptions import AuthenticationError

from sluice.kafka_io.config import build_confluent_admin
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.redis_pool import open_client
from sluice.stack.patience import patient
from sluice.stack.ports import LOOPBACK
from sluice.testing.servers.deployment import Deployment
from tests.compose import my_handlers
from tests.compose.project import ROOT, ComposeProject, wiped
from tests.compose.steps import (
    FLOWER_PASSWORD,
    PASSWORD,
    deployment_of,
    settle,
    timed,
    wait_healthy,
)
from tests.documents import blocks_in
from tests.waiting import wait_until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1_800)]

IMAGE = "my/handlers"  # the name in docs/operating.md
HANDLERS_FILE = Path(my_handlers.__file__)
USER = "10001"
SERVERS = {"kafka", "postgres", "redis"}
APPLIED_SECONDS = 60.0
ANSWER_SECONDS = 10.0


def test_a_users_image_runs_and_the_data_outlive_the_containers(
    project: ComposeProject, tmp_path: Path
) -> None:
    timed("build of the image", project.build_service)
    print(f"{project.image_size() / 1e6:.0f} MB, {count_packages(project)} packages", flush=True)
    mine = with_handlers(project, tmp_path)
    with wiped(mine):
        start(mine)
        check_limits(mine)
        with closing(deployment_of(mine, tmp_path, my_handlers.__name__)) as deployment:
            installation = deployment.installation
            check_logins(mine, deployment)
            send(mine, {"p-1": "Ulm", "p-2": "Bonn"}, version=1)
            wait_places(deployment, {"p-1": "Ulm", "p-2": "Bonn"})
        timed("down", mine.down)
        start(mine)
        with closing(deployment_of(mine, tmp_path, my_handlers.__name__)) as deployment:
            # A new database would get the same rows from Kafka's log.
            assert deployment.installation == installation
            assert places(deployment) == {"p-1": "Ulm", "p-2": "Bonn"}
            send(mine, {"p-2": "Kiel"}, version=2)
            wait_places(deployment, {"p-1": "Ulm", "p-2": "Kiel"})
            settle(deployment)
            assert not deployment.complaints(deployment.tables())


def start(project: ComposeProject) -> None:
    """Starts the containers, and waits until they are healthy."""
    timed("up", project.up)
    timed("healthy after that", lambda: wait_healthy(project))


def with_handlers(project: ComposeProject, folder: Path) -> ComposeProject:
    """Builds the user's image, and returns the project with the override file that the docs show."""
    context = folder / "image"
    context.mkdir()
    shutil.copy(HANDLERS_FILE, context)
    (context / "Dockerfile").write_text(f"FROM sluice:local\nCOPY {HANDLERS_FILE.name} /app/\n")
    project.build_image(IMAGE, context)
    [shown] = [block for block in blocks_in("yaml", page=ROOT / "docs/operating.md") if IMAGE in block.text]
    override = folder / "docker-compose.override.yml"
    override.write_text(shown.text)
    environment = {**project.environment, "SLUICE_HANDLERS": HANDLERS_FILE.stem}
    return replace(project, environment=environment, overrides=(override,))


def count_packages(project: ComposeProject) -> int:
    """Returns the number of Python packages in the image, with Sluice itself."""
    code = "import importlib.metadata as m; print(len({d.name for d in m.distributions()}))"
    return int(project.run_image("python", "-c", code))


def check_limits(project: ComposeProject) -> None:
    """Checks users, read-only file systems, limits, and the arguments of all processes."""
    arguments = "cat /proc/[0-9]*/cmdline"
    for one in project.containers():
        assert one.memory_bytes, one.name
        assert one.process_limit, one.name
        if one.health == "done":
            continue
        assert PASSWORD not in project.execute(one, "sh", "-c", arguments), one.name
        if one.service in SERVERS:
            continue
        assert project.execute(one, "id", "-u").strip() == USER, one.name
        touched = project.execute(one, "sh", "-c", "touch /tmp/here && ! touch /app/here /here 2>&1")
        assert touched.count("Read-only file system") == 2, f"{one.name}: {touched}"


def check_logins(project: ComposeProject, deployment: Deployment) -> None:
    """Checks that no server answers without the password. The rest of the test uses the password."""
    urls = deployment.urls
    port = project.environment
    with (
        open_client(f"redis://{LOOPBACK}:{port['REDIS_PORT']}/0") as client,
        pytest.raises(AuthenticationError),
    ):
        client.ping()
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(
            host=LOOPBACK, port=port["POSTGRES_PORT"], user="app", password="wrong", dbname="sluice"
        )
    admin = build_confluent_admin(KafkaAccess(urls.kafka_bootstrap_servers), {})
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=ANSWER_SECONDS)
    page = f"http://{LOOPBACK}:{port['FLOWER_PORT']}/workers"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(page, timeout=patient(ANSWER_SECONDS))
    login = base64.b64encode(f"admin:{FLOWER_PASSWORD}".encode()).decode()
    request = urllib.request.Request(page, headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=patient(ANSWER_SECONDS)) as answer:
        assert answer.status == 200


def send(project: ComposeProject, seen: dict[str, str], *, version: int) -> None:
    """Sends an event for each parcel, by a container of the project."""
    lines = [
        json.dumps(
            {
                "topic": "parcels",
                "key": key,
                "value": {
                    "event_id": f"{key}-{version}",
                    "type": "parcel.seen",
                    "version": version,
                    "data": {"place": place},
                },
            }
        )
        for key, place in seen.items()
    ]
    project.run("migrate", "sluice", "send", "-", given="\n".join(lines) + "\n")


def places(deployment: Deployment) -> dict[str, str]:
    """Returns the place of each parcel."""
    return {key: row["place"] for key, row in deployment.rows(my_handlers.parcels).items()}


def wait_places(deployment: Deployment, expected: dict[str, str]) -> None:
    """Waits until the table has these places."""
    wait_until(
        lambda: places(deployment) == expected, timeout_seconds=APPLIED_SECONDS, what=f"rows: {expected}"
    )
