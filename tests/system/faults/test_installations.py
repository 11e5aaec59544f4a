"""Several installations share topics, a Redis database and Kafka. Their processes are killed."""

import os
import random
import time
from collections.abc import Callable

import pytest

from sluice.db.admin.server_facts import read_beat_silence
from sluice.db.delivery.leases import read_lease_snapshot
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults import second_app
from tests.system.faults.load import assert_equals_the_oracle

EVENTS_PER_TURN = 400
TURNS = 6
SHARDS = (4, 8, 3)


class Processes:
    """The processes of one installation."""

    def __init__(self, deployment: Deployment) -> None:
        run = deployment.run
        self._makers: dict[str, Callable[[], RunningProcess]] = {
            "bridge": run.start_bridge,
            "worker-a": lambda: run.start_worker(name="worker-a"),
            "worker-b": lambda: run.start_worker(name="worker-b"),
            "relay": run.start_relay,
            "beat": run.start_beat,
        }
        self._running = {name: make() for name, make in self._makers.items()}

    def kill(self, name: str) -> None:
        """Kills a process and starts it again."""
        self._running[name].kill()
        self._running[name] = self._makers[name]()

    def names(self) -> list[str]:
        return sorted(self._makers)


def run_installations(
    make_deployment: MakeDeployment, count: int, *, seed: int, keep_on: Callable[[int], bool]
) -> None:
    """Runs `count` installations while processes are killed. Then compares each with its own oracle."""
    rng = random.Random(seed)
    first = make_deployment(shards=SHARDS[0])
    others = [make_deployment(beside=first, shards=shards) for shards in SHARDS[1:count]]
    deployments = [first, *others]
    assert len({deployment.installation.group for deployment in deployments}) == count
    storms = [Processes(deployment) for deployment in deployments]
    turn = 0
    while keep_on(turn):
        first.produce(mixed_events(EVENTS_PER_TURN, seed=seed * 1_000 + turn))
        storm = rng.choice(storms)
        storm.kill(rng.choice(storm.names()))
        turn += 1
    print(f"{turn} turns, seed {seed}")
    for deployment in deployments:
        deployment.wait_settled(timeout_seconds=180)
        deployment.wait_sent()
        assert_equals_the_oracle(deployment)
        # No process has received a message of another installation. It would have logged that it drops the
        # message.
        logs = [process.log.read_text(errors="replace") for process in deployment.run.processes]
        assert not any("messages dropped" in log for log in logs)


@pytest.mark.matrix
def test_two_installations_on_one_redis_and_one_kafka_do_not_read_each_others_messages(
    make_deployment: MakeDeployment,
) -> None:
    run_installations(make_deployment, 2, seed=1, keep_on=lambda turn: turn < TURNS)


@pytest.mark.matrix
def test_two_installations_in_two_schemas_of_one_database_work_beside_each_other(
    make_deployment: MakeDeployment,
) -> None:
    """The names of the second installation's queues are names of the first one's, as their locks would be."""
    shop = make_deployment(shards=4)
    second = make_deployment("tests.system.faults.second_app", beside=shop, schema="billing", shards=4)
    both = [shop, second]
    assert {*second.queues()} <= {*shop.queues()}
    storms = [Processes(deployment) for deployment in both]
    rng = random.Random(5)
    for turn in range(TURNS):
        shop.produce(mixed_events(EVENTS_PER_TURN, seed=turn))
        second.produce(second_app.some_events(EVENTS_PER_TURN, turn))
        storm = rng.choice(storms)
        storm.kill(rng.choice(storm.names()))
    for deployment in both:
        deployment.wait_settled(timeout_seconds=180)
        deployment.wait_sent()
        assert_equals_the_oracle(deployment)
        # Each has a beat that leads, and two workers that share all queues.
        deployment.wait_until(
            lambda one=deployment: read_beat_silence(one.session) is not None,  # type: ignore[misc]
            timeout_seconds=60,
            what="a beat leads",
        )
        deployment.wait_until(
            lambda one=deployment: _are_shared(one),  # type: ignore[misc]
            timeout_seconds=60,
            what="two workers share all queues",
        )
    assert shop.installation.group != second.installation.group


def _are_shared(deployment: Deployment) -> bool:
    found = read_lease_snapshot(deployment.session)
    holders = [lease.holder for lease in found.leases if not lease.retired]
    return len(found.members) == 2 and None not in holders and {*holders} <= {*found.members}


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_three_installations_survive_repeated_kills(make_deployment: MakeDeployment) -> None:
    given = os.environ.get("SOAK_SEED", "random")
    seed = random.randrange(10**6) if given == "random" else int(given)
    print(f"SOAK_SEED={seed}")
    until = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES", "10"))
    run_installations(make_deployment, 3, seed=seed, keep_on=lambda _: time.monotonic() < until)
