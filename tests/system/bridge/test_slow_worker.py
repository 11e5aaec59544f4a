"""While a running worker holds a message, the bridge waits. After the end of the worker, the bridge

publishes the message again.
"""

from typing import Any

import pytest

from sluice.bridge.publisher import RedisPublisher
from sluice.tasks.task_sender import TaskSender
from tests.harness.storm import mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

EVENTS = 400


@pytest.mark.matrix
def test_a_held_message_is_found_until_its_worker_is_killed(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment()
    deployment.run.start_bridge()
    queues = deployment.queues()
    no_keys: Any = None
    publisher = RedisPublisher(TaskSender(deployment.redis, no_keys))

    def in_hand() -> frozenset[str]:
        found = publisher.probe([], queues).found.values()
        return frozenset(message for one in found for message in one.in_hand)

    # The worker stops in its first batch and keeps its connections open.
    worker = deployment.run.start_worker(queues, faults="apply.begun:1:stop")
    deployment.produce(mixed_events(EVENTS, seed=1))
    deployment.wait_until(lambda: len(in_hand()) == 1, timeout_seconds=60, what="a message is held")
    worker.kill()
    deployment.wait_until(
        lambda: not in_hand(), timeout_seconds=60, what="no running worker holds the message"
    )
    deployment.run.start_worker(queues, name="worker-2")
    # The bridge publishes the message again before the visibility timeout.
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)
