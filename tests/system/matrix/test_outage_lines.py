"""During the outage of a server, each process logs only one line about the outage, as JSON."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from examples.shop.generate import generate
from sluice.runtime.repeat_filter import OUTAGE
from sluice.stack import ServiceName, Stack
from sluice.testing.servers.local_run import RunningProcess
from tests.scraping import scrape
from tests.system.conftest import MakeDeployment

pytestmark = pytest.mark.matrix

OUTAGE_SECONDS = 30.0  # This is less than a minute, because a second line is due after a minute.
MOST_INFO_LINES = 8  # The lines at level info about changes of state: leases, the leading beat, partitions.
PROCESSES_OF: dict[str, set[str]] = {
    "postgres": {"bridge", "celery-worker", "sluice-worker", "relay", "effects", "rebuild", "beat"},
    "redis": {"bridge", "celery-worker", "sluice-worker", "relay", "effects", "rebuild", "beat"},
    "kafka": {"bridge"},
}
"""Server → processes that must have logged its outage."""


@pytest.mark.own("postgres", "redis", "kafka")
@pytest.mark.parametrize("server", ["postgres", "redis", "kafka"])
@pytest.mark.parametrize("client", ["confluent", "kafka-python"])
def test_each_process_logs_one_line_for_an_outage(
    server: ServiceName, client: str, make_deployment: MakeDeployment, own_stack: Stack
) -> None:
    deployment = make_deployment(SLUICE_KAFKA_CLIENT=client)
    run = deployment.run
    run.with_metrics = True
    bridge = run.start_bridge()
    processes = [
        run.start_worker(deployment.queues("payment"), name="celery-worker"),
        run.start_supervised_worker(name="sluice-worker"),
        run.start_relay(),
        run.start_effects(),
        run.start_rebuilds(),
        beat := run.start_beat(),
    ]
    for process in processes:
        deployment.wait_until(
            lambda process=process: has_begun(process),  # type: ignore[misc]
            timeout_seconds=60,
            what=f"{process.name} works",
        )
    processes.append(bridge)
    deployment.produce(generate("payments", count=100, seed=1))
    deployment.wait_settled()
    before = {process.name: process.log.stat().st_size for process in processes}
    began = time.monotonic()
    own_stack.stop(server)

    def is_over() -> bool:
        scrape(beat.metrics_port)
        return time.monotonic() - began > OUTAGE_SECONDS

    deployment.wait_until(is_over, timeout_seconds=60, what="the outage is over")
    written = {process.name: list(lines_of(process, before[process.name])) for process in processes}
    for name, lines in written.items():
        grave = [line for line in lines if line["level"] != "info"]
        assert len(grave) <= 1, (name, [line["event"] for line in grave])
        assert [line[OUTAGE].lower() for line in grave] == [server] * len(grave), (name, grave)
        assert len(grave) == 1 or name not in PROCESSES_OF[server], name
        assert len(lines) <= MOST_INFO_LINES, (name, [line["event"] for line in lines])
    own_stack.start(server)
    deployment.session.close()  # The outage has ended the session of the test itself.
    deployment.produce(generate("payments", count=100, seed=2))
    deployment.wait_settled()


def has_begun(process: RunningProcess) -> bool:
    """Returns True if the log shows that the process works."""
    text = process.log.read_text()
    return "ready." in text or "this beat leads" in text or "queue leases acquired" in text


def lines_of(process: RunningProcess, start: int) -> Iterator[dict[str, Any]]:
    """Yields the log lines after this position. Raises an error if a line is not JSON."""
    for line in process.log.read_bytes()[start:].decode().splitlines():
        yield json.loads(line)
