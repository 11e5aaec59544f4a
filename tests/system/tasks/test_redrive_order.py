"""One of many events of an entity fails. The redrive of this event is killed while further events arrive."""

import json

import pytest

from examples.shop.generate import OutgoingRecord
from sluice.testing.servers.deployment import Deployment
from tests.system.cli.test_cli import sluice
from tests.system.conftest import MakeDeployment
from tests.system.tasks import strict_app

KEY = "k"


def things(numbers: range, key: str = KEY) -> list[OutgoingRecord]:
    return [
        OutgoingRecord(
            "strict-things",
            key,
            {"event_id": f"{key}-{n}", "type": "thing.set", "version": n, "data": {"amount": n}},
        )
        for n in numbers
    ]


def redrive(deployment: Deployment, faults: str = "") -> int:
    words = ("dlq", "redrive", "--all", "--reason", "test", "--yes", "--json")
    return deployment.run.sluice(*words, faults=faults).returncode


@pytest.mark.parametrize(
    "point", [pytest.param("redrive.before_commit", marks=pytest.mark.matrix), "redrive.committed"]
)
def test_a_killed_redrive_keeps_the_order_of_an_entity(make_deployment: MakeDeployment, point: str) -> None:
    deployment = make_deployment("tests.system.tasks.strict_app", partitions=2)
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.produce(things(range(1, 50)))
    deployment.wait_settled()
    # The bad event is produced alone. In one batch with a later event of the row, Postgres would not get the
    # bad value.
    poison = {"event_id": "poison", "type": "thing.set", "version": 50, "data": {"amount": -1}}
    deployment.produce([OutgoingRecord("strict-things", KEY, poison)])
    deployment.wait_settled()
    deployment.produce([*things(range(51, 101)), *things(range(1, 200), "neighbour")])
    deployment.wait_settled()
    assert deployment.rows(strict_app.strict_things)[KEY]["amount"] == 49
    assert deployment.rows(strict_app.strict_things)["neighbour"]["amount"] == 199
    deployment.produce(things(range(101, 151)))
    assert redrive(deployment, f"{point}:1:kill") == -9
    deployment.produce(things(range(151, 201)))
    redrive(deployment)
    deployment.wait_settled()
    # This redrives the events that arrived while the entity was still parked.
    redrive(deployment)
    deployment.wait_settled()
    assert deployment.rows(strict_app.strict_things)[KEY]["amount"] == 200
    assert deployment.complaints([strict_app.strict_things]) == []
    assert json.loads(sluice(deployment, "verify", "--json").stdout)
