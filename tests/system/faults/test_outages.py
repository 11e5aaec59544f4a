"""After outages, lost data and restores of Redis, Postgres and Kafka, each event is applied one time."""

import shutil
import time
from pathlib import Path

import pytest
from redis import Redis

from examples.shop.generate import OutgoingRecord, generate
from sluice.bridge.topic_stops import GONE_AFTER_SECONDS
from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

EVENTS = 4_000


@pytest.mark.own("redis")
def test_nothing_is_lost_when_redis_is_killed_and_restarted_empty(
    make_deployment: MakeDeployment, own_stack: Stack
) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_until(
        lambda: sum(deployment.outcomes().values()) > 0, timeout_seconds=60, what="events are applied"
    )
    own_stack.stop("redis", signal="kill")
    deployment.produce(mixed_events(EVENTS, seed=2))
    own_stack.start("redis", wipe=True)
    deployment.wait_settled(timeout_seconds=120)
    assert_equals_the_oracle(deployment)


def test_nothing_is_lost_when_redis_is_wiped_with_waiting_batches(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.produce(mixed_events(EVENTS, seed=3))
    queues = deployment.queues()
    deployment.wait_until(
        lambda: any(deployment.redis.llen(queue) for queue in queues),
        timeout_seconds=60,
        what="batches wait in Redis",
    )
    deployment.wipe_redis()
    deployment.run.start_worker(queues)
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


def test_a_message_that_is_deleted_from_redis_is_published_again(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    queue = "payment.0"
    payments = list(generate("payments", count=3_000, seed=4))
    deployment.produce(payments[:1_000])
    deployment.wait_until(
        lambda: deployment.redis.llen(queue) > 0, timeout_seconds=60, what="a batch waits in Redis"
    )
    assert deployment.redis.lpop(queue) is not None
    deployment.run.start_worker(deployment.queues())
    deployment.produce(payments[1_000:])
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)


@pytest.mark.own("postgres")
def test_nothing_is_lost_when_postgres_is_stopped_immediately_and_restarted(
    make_deployment: MakeDeployment, own_stack: Stack
) -> None:
    deployment = make_deployment()
    bridge = deployment.run.start_bridge()
    worker = deployment.run.start_worker(deployment.queues())
    deployment.produce(mixed_events(EVENTS, seed=5))
    deployment.wait_until(
        lambda: sum(deployment.outcomes().values()) > 0, timeout_seconds=60, what="events are applied"
    )
    own_stack.stop("postgres", signal="immediate")
    deployment.session.close()
    deployment.produce(mixed_events(EVENTS, seed=6))
    own_stack.start("postgres")
    deployment.wait_settled(timeout_seconds=120)
    assert_equals_the_oracle(deployment)
    assert (bridge.exit_code, worker.exit_code) == (None, None)


@pytest.mark.matrix
@pytest.mark.own("postgres")
def test_events_are_applied_again_after_postgres_is_restored_to_an_older_copy(
    make_deployment: MakeDeployment, own_stack: Stack, tmp_path: Path
) -> None:
    deployment = make_deployment()
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.produce(mixed_events(EVENTS, seed=7))
    deployment.wait_settled()
    data, older = own_stack.data_dir("postgres"), tmp_path / "older"
    own_stack.stop("postgres")
    shutil.copytree(data, older, symlinks=True)
    own_stack.start("postgres")
    deployment.session.close()
    deployment.produce(mixed_events(EVENTS, seed=8))
    deployment.wait_settled()
    own_stack.stop("postgres", signal="immediate")
    shutil.rmtree(data)
    shutil.copytree(older, data, symlinks=True)
    own_stack.start("postgres")
    deployment.session.close()
    deployment.wait_settled(timeout_seconds=120)
    assert_equals_the_oracle(deployment)
    assert bridge.exit_code is None


@pytest.mark.matrix
@pytest.mark.own("kafka")
def test_a_bridge_survives_a_kafka_outage_while_it_runs_and_when_it_starts(
    make_deployment: MakeDeployment, own_stack: Stack
) -> None:
    deployment = make_deployment()
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.produce(mixed_events(EVENTS, seed=9))
    deployment.wait_settled()
    deployment.close()
    own_stack.stop("kafka", signal="kill")
    late = deployment.run.start_bridge(name="late bridge")
    _wait_longer_than_a_topic_may_be_missing(deployment, bridge, late)
    own_stack.start("kafka")
    deployment.produce(mixed_events(EVENTS, seed=10))
    deployment.wait_settled(timeout_seconds=120)
    # Only the bridge that started without Kafka runs now.
    bridge.kill()
    deployment.produce(mixed_events(EVENTS, seed=11))
    deployment.wait_settled(timeout_seconds=120)
    assert_equals_the_oracle(deployment)
    assert late.exit_code is None


def _wait_longer_than_a_topic_may_be_missing(deployment: Deployment, *bridges: RunningProcess) -> None:
    """Waits longer than the time after which a bridge stops for a missing topic.

    An unreachable broker does not count as a missing topic, so no bridge may stop.
    """
    until = time.monotonic() + 1.5 * GONE_AFTER_SECONDS
    deployment.wait_until(
        lambda: any(one.exit_code is not None for one in bridges) or time.monotonic() >= until,
        timeout_seconds=3 * GONE_AFTER_SECONDS,
        what="the outage ends",
    )
    assert [one.exit_code for one in bridges] == [None] * len(bridges), [one.tail() for one in bridges]


def test_redis_is_empty_when_all_events_are_applied(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    deployment.produce(
        [OutgoingRecord("users", "u", {"event_id": "e", "type": "user.changed", "version": 1, "data": {}})]
    )
    deployment.wait_settled()
    with Redis.from_url(deployment.urls.redis_url) as redis:
        assert not any(redis.llen(queue) for queue in deployment.queues())
