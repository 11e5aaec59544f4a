"""If workers read different message formats, publishers write a format that every running worker can read."""

import pytest

from sluice.runtime.message_frame import MAC_BYTES
from sluice.runtime.redis_item import Item, read_item
from sluice.tasks.installation.formats import NEWEST_FORMAT
from sluice.testing.servers.deployment import Deployment
from tests.harness.header_names import RawName
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle
from tests.system.worker.test_rolling_deployments import APPS, EVENTS, NEW, events, of, things, wait_applied

NEWER = f"{APPS}newer_format_app"
FORMAT_1 = f"{APPS}format_1_app"


def waiting_formats(deployment: Deployment) -> set[int]:
    """Returns the formats of the messages that wait in the queues."""
    found = set()
    for queue in deployment.queues():
        for raw in deployment.redis.lrange(queue, 0, -1):
            item = read_item(raw)  # type: ignore[arg-type]
            assert isinstance(item, Item)
            found.add(item.frame[MAC_BYTES])
    return found


@pytest.mark.matrix
def test_a_newer_format_is_written_when_no_old_worker_is_left(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(NEW)
    old, newer = deployment.run, of(deployment, NEWER)
    first = old.start_worker(name="old")
    deployment.wait_until(
        lambda: _announced(deployment, 1), timeout_seconds=60, what="the worker has written its row"
    )
    newer.start_bridge()
    deployment.produce(things(EVENTS))
    wait_applied(deployment, "things", EVENTS)
    first.stop()
    deployment.produce(things(10, first=EVENTS))

    def written() -> bool:
        formats = waiting_formats(deployment)
        if formats == {NEWEST_FORMAT}:
            # The bridge still takes the old worker into account. After the wipe, it publishes the messages
            # again.
            deployment.wipe_redis()
        return formats == {NEWEST_FORMAT + 1}

    # When no worker is left, the bridge writes its newest format.
    deployment.wait_until(written, timeout_seconds=60, what="messages of the newer format wait")
    # An old worker that starts again does not apply these messages. The bridge publishes them again in the
    # old format.
    returned = old.start_worker(name="returned")
    deployment.wait_settled(timeout_seconds=180)
    assert "newer format" in returned.log.read_text()
    # With a worker of each format, events are also applied.
    newer.start_worker(name="newer")
    deployment.produce(things(EVENTS, first=EVENTS + 10))
    deployment.wait_settled(timeout_seconds=180)
    assert_equals_the_oracle(deployment)
    assert "newer format" not in first.log.read_text()
    assert [process.exit_code for process in deployment.run.processes[1:]] == [None] * 3


@pytest.mark.matrix
def test_a_flawed_record_waits_for_the_end_of_older_workers(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment(NEW, partitions=1)
    older = of(deployment, FORMAT_1).start_worker(name="older")
    deployment.wait_until(
        lambda: _announced(deployment, 1), timeout_seconds=60, what="the worker has written its row"
    )
    bridge = deployment.run.start_bridge()
    deployment.produce(things(10))
    topic = f"rolling-things{deployment.topic_suffix}"
    deployment.producer.send(topic, key=b"things-0", value=b"{}", headers=[(RawName(b"\xff"), b"")])
    deployment.producer.flush()
    deployment.produce(events("others", "thing.counted", EVENTS))
    wait_applied(deployment, "others", EVENTS)
    deployment.wait_until(
        lambda: "lane held back" in bridge.log.read_text(), timeout_seconds=60, what="the held lane is logged"
    )
    assert not deployment.outcomes("rolling-things")["dead"]
    older.stop()
    deployment.run.start_worker(name="newer")
    deployment.wait_settled(timeout_seconds=180)
    assert deployment.outcomes("rolling-things") == {"applied": 10, "dead": 1}
    assert bridge.log.read_text().count("lane held back") <= 2
    assert bridge.exit_code is None


def _announced(deployment: Deployment, workers: int) -> bool:
    with deployment.session.connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sluice.processes WHERE kind = 'worker'")
        row = cursor.fetchone()
    return row is not None and row[0] == workers
