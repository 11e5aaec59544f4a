"""Workers that share queues. Events are applied although workers start, stop, are killed or disconnected."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from examples.shop.generate import OutgoingRecord
from sluice.db.delivery.leases import read_workers
from sluice.stack import Stack
from sluice.stack.postgres_server import SUPERUSER
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness.raw_sql import connect
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle
from tests.system.worker.handovers import overlap_seconds, read_spans

APP = "tests.system.worker.sharing_app"
EVENTS = 2_000


def things(count: int, *, first: int = 0) -> list[OutgoingRecord]:
    """Returns events of fifty keys. Their version increases, so a wrong order would change the rows."""
    return [
        OutgoingRecord(
            "shared-things",
            f"thing-{number % 50}",
            {
                "type": "thing.counted",
                "event_id": f"e-{number}",
                "version": number,
                "data": {"amount": number},
            },
        )
        for number in range(first, first + count)
    ]


def held(deployment: Deployment) -> Counter[str]:
    """Returns worker → number of its queues. The queues without a worker count under "nobody"."""
    sharing = read_workers(deployment.session)
    counts = Counter(dict.fromkeys((worker.node for worker in sharing.workers), 0))
    holders = sharing.holders()
    counts.update(holders.get(lease.queue, "nobody") for lease in sharing.leases)
    return counts


def wait_held(deployment: Deployment, *counts: int) -> None:
    """Waits until `held` returns these numbers of queues, in any order."""
    deployment.wait_until(
        lambda: sorted(held(deployment).values()) == sorted(counts),
        timeout_seconds=60,
        what=f"the workers hold {counts} queues",
    )


def start_workers(deployment: Deployment, count: int) -> list[RunningProcess]:
    return [deployment.run.start_worker(name=f"worker-{number}") for number in range(count)]


def test_workers_share_the_queues_and_take_over_the_queues_of_ended_workers(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(APP)
    deployment.run.start_bridge()
    workers = start_workers(deployment, 4)
    wait_held(deployment, 2, 2, 2, 2)
    deployment.produce(things(EVENTS))
    assert workers.pop().stop() == 0
    wait_held(deployment, 2, 3, 3)
    workers.pop().kill()
    wait_held(deployment, 4, 4)
    deployment.produce(things(EVENTS, first=EVENTS))
    deployment.run.start_worker(name="newcomer")
    wait_held(deployment, 2, 3, 3)
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


def test_another_worker_takes_over_the_queues_of_a_worker_killed_in_a_batch(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(APP)
    doomed = deployment.run.start_worker(name="doomed", faults="apply.before_commit:2:kill")
    wait_held(deployment, 8)
    deployment.run.start_worker(name="other")
    wait_held(deployment, 4, 4)
    deployment.run.start_bridge()
    deployment.produce(things(EVENTS))
    deployment.wait_until(lambda: doomed.exit_code == -9, timeout_seconds=60, what="the worker is killed")
    wait_held(deployment, 8)
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


def end_lease_sessions(deployment: Deployment, _: Stack) -> None:
    # Only a superuser may end the sessions of all roles.
    url = make_url(deployment.urls.database_url).set(username=SUPERUSER)
    with (
        closing(connect(url.render_as_string(hide_password=False))) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'sluice leases' AND datname = current_database()"
        )
        assert cursor.fetchone() == (2,)


def cut_redis_connections(deployment: Deployment, _: Stack) -> None:
    deployment.redis.client_kill_filter(_type="normal", skipme=True)


def restart_redis(deployment: Deployment, stack: Stack) -> None:
    stack.stop("redis", signal="kill")
    stack.start("redis", wipe=True)


def restart_postgres(deployment: Deployment, stack: Stack) -> None:
    stack.stop("postgres", signal="immediate")
    deployment.session.close()
    stack.start("postgres")


@pytest.mark.parametrize(
    "harm",
    [
        end_lease_sessions,
        pytest.param(cut_redis_connections, marks=pytest.mark.own("redis")),
        pytest.param(restart_redis, marks=pytest.mark.own("redis")),
        pytest.param(restart_postgres, marks=pytest.mark.own("postgres")),
    ],
)
def test_workers_continue_without_a_restart_after_lost_connections(
    make_deployment: MakeDeployment, own_stack: Stack, harm: Callable[[Deployment, Stack], None]
) -> None:
    deployment = make_deployment(APP)
    deployment.run.start_bridge()
    workers = start_workers(deployment, 2)
    wait_held(deployment, 4, 4)
    deployment.produce(things(EVENTS))
    harm(deployment, own_stack)
    deployment.produce(things(EVENTS, first=EVENTS))
    deployment.wait_settled(timeout_seconds=120)
    wait_held(deployment, 4, 4)
    assert_equals_the_oracle(deployment)
    assert [worker.exit_code for worker in workers] == [None, None]


def test_a_suspended_worker_loses_its_queues_and_gets_its_share_after_it_continues(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(APP)
    deployment.run.start_bridge()
    asleep, _ = start_workers(deployment, 2)
    wait_held(deployment, 4, 4)
    asleep.signal(signal.SIGSTOP)
    deployment.produce(things(EVENTS))
    wait_held(deployment, 8)
    deployment.wait_settled(timeout_seconds=120)
    asleep.signal(signal.SIGCONT)
    wait_held(deployment, 4, 4)
    deployment.produce(things(EVENTS, first=EVENTS))
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


def test_results_are_right_when_broken_leases_let_two_workers_pop_from_one_queue(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment("tests.system.worker.broken_leases_app")
    deployment.run.start_bridge()
    workers = start_workers(deployment, 2)
    wait_held(deployment, 0, 0, 8)
    deployment.produce(things(2 * EVENTS))
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)
    spans = [span for worker in workers for span in read_spans(worker, ended_at=time.time())]
    assert {span.queue for span in spans if span.worker == spans[0].worker} == set(deployment.queues())
    assert overlap_seconds(spans) > 0


def test_a_worker_without_a_queue_list_requires_the_pool_solo(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment(APP)
    refused = deployment.run.start_worker(pool="prefork")
    deployment.wait_until(lambda: refused.exit_code is not None, timeout_seconds=60, what="the worker ends")
    assert refused.exit_code != 0
    assert "-P solo" in refused.tail()
