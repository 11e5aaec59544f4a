"""Every process shows its own metrics. Only the leading beat shows the lag of the whole installation."""

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from examples.shop.generate import generate
from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.scraping import Samples, ask_health, ours, scrape
from tests.system.conftest import MakeDeployment
from tests.waiting import wait_until

ORDERS = 300
UP_SECONDS = 60.0


def shown(process: RunningProcess) -> Samples:
    """Waits until the process serves metrics. Returns the samples of the metrics."""
    return wait_for(process, lambda _: True, "serves metrics")


def total(samples: Samples, name: str) -> float:
    return sum(value for (of, _), value in samples.items() if of == name)


def wait_for(
    process: RunningProcess, condition: Callable[[Samples], bool], what: str, seconds: float = UP_SECONDS
) -> Samples:
    """Waits until the condition is true for the samples of a process. Returns these samples."""

    def look() -> Samples | None:
        samples = scrape(process.metrics_port)
        return samples if samples is not None and condition(samples) else None

    return wait_until(look, timeout_seconds=seconds, what=f"{process.name}: {what}") or {}


def with_metrics(make_deployment: MakeDeployment) -> Deployment:
    deployment = make_deployment()
    deployment.run.with_metrics = True
    return deployment


@pytest.mark.parametrize("shares_queues", [False, True], ids=["queues named", "queues shared"])
def test_the_counters_add_up_to_the_produced_events(
    make_deployment: MakeDeployment, shares_queues: bool
) -> None:
    deployment = with_metrics(make_deployment)
    queues = deployment.queues()
    bridge = deployment.run.start_bridge()
    worker = deployment.run.start_worker(None if shares_queues else queues)
    relay = deployment.run.start_relay()
    beat = deployment.run.start_beat()
    deployment.produce(generate("orders", count=ORDERS, seed=1))
    deployment.wait_settled()
    deployment.wait_sent()

    read = shown(bridge)
    assert total(read, "sluice_bridge_read_records_total") == ORDERS
    assert total(read, "sluice_bridge_published_records_total") >= ORDERS
    assert 0 < total(read, "sluice_bridge_published_messages_total") <= ORDERS
    read = wait_for(bridge, lambda s: not s["sluice_bridge_held_bytes", ()], "the bridge holds no records")
    assert read["sluice_bridge_span_records", ()] == 0
    assert read["sluice_bridge_partitions", ()] == 4 * len(deployment.registry.topics)
    assert read["sluice_bridge_postgres_up", ()] == read["sluice_bridge_redis_up", ()] == 1

    for process in (bridge, worker, relay, beat):
        assert ask_health(process.metrics_port, "/healthz") == (200, "ok\n")
        assert ask_health(process.metrics_port, "/readyz") == (200, "ok\n")
        found = shown(process).items()
        servers = {labels: value for (name, labels), value in found if name == "sluice_server_up"}
        kafka = [] if process is worker else [("kafka",)]
        assert servers == dict.fromkeys([("postgres",), ("redis",), *kafka], 1)

    applied = shown(worker)
    assert applied["sluice_worker_records_total", ("applied",)] == ORDERS
    assert total(applied, "sluice_worker_records_total") == ORDERS
    assert total(applied, "sluice_worker_aborted_batches_total") == 0
    assert 0 < applied["sluice_worker_batch_seconds_count", ()] <= ORDERS
    assert applied.get(("sluice_worker_leased_queues", ())) == (len(queues) if shares_queues else None)

    sent = shown(relay)
    assert total(sent, "sluice_relay_sent_records_total") == ORDERS
    assert total(sent, "sluice_relay_runs_total") > 0

    def is_settled(samples: Samples) -> bool:
        return samples.get(("sluice_lag_records", (f"orders{deployment.topic_suffix}",))) == 0

    whole = wait_for(beat, is_settled, "no lag")
    assert total(whole, "sluice_oldest_unapplied_seconds") == total(whole, "sluice_lag_records") == 0
    assert (
        whole["sluice_beat_leads", ()] == whole["sluice_postgres_up", ()] == whole["sluice_kafka_up", ()] == 1
    )
    assert whole["sluice_calls", ("pending",)] == ORDERS
    assert whole["sluice_sharing_workers", ()] == (1 if shares_queues else 0)
    assert whole["sluice_unleased_queues", ()] == (0 if shares_queues else len(queues))
    for samples in (read, applied, sent, whole):
        assert samples["process_resident_memory_bytes", ()] > 0


def test_the_leading_beat_and_then_its_successor_show_the_lag(
    make_deployment: MakeDeployment,
) -> None:
    deployment = with_metrics(make_deployment)
    topic = f"orders{deployment.topic_suffix}"
    bridge = deployment.run.start_bridge()
    wait_for(bridge, lambda s: s["sluice_bridge_partitions", ()] > 0, "partitions are started")
    deployment.produce(generate("orders", count=ORDERS, seed=2))
    first = deployment.run.start_beat(name="first")
    found = wait_for(first, lambda s: s.get(("sluice_lag_records", (topic,))) == ORDERS, "the lag")
    age = found["sluice_oldest_unapplied_seconds", (topic,)]
    assert age > 0
    found = wait_for(
        first, lambda s: s["sluice_oldest_unapplied_seconds", (topic,)] != age, "the age is read again"
    )
    assert found["sluice_oldest_unapplied_seconds", (topic,)] > age

    second = deployment.run.start_beat(name="second")
    assert ours(shown(second)) == {"sluice_beat_leads", "sluice_server_up"}
    assert shown(second)["sluice_beat_leads", ()] == 0
    first.kill()
    found = wait_for(second, lambda s: s["sluice_beat_leads", ()] == 1, "leads", seconds=10)
    assert found["sluice_lag_records", (topic,)] == ORDERS
    assert scrape(first.metrics_port) is None


@pytest.mark.matrix
@pytest.mark.own("kafka", "postgres")
def test_the_beat_shows_an_unreachable_server(make_deployment: MakeDeployment, own_stack: Stack) -> None:
    deployment = with_metrics(make_deployment)
    beat = deployment.run.start_beat()
    well = wait_for(beat, lambda s: s.get(("sluice_kafka_up", ())) == 1, "all servers are up")
    own_stack.stop("kafka")
    found = wait_for(beat, lambda s: s["sluice_kafka_up", ()] == 0, "Kafka is down")
    wait_for(beat, lambda s: s["sluice_server_up", ("kafka",)] == 0, "Kafka accepts no login")
    assert ours(found) == ours(well)
    deployment.close()
    own_stack.stop("postgres", signal="immediate")
    found = wait_for(beat, lambda s: s.get(("sluice_postgres_up", ())) == 0, "Postgres is down")
    assert ours(found) == {"sluice_beat_leads", "sluice_postgres_up", "sluice_server_up"}
    assert found["sluice_server_up", ("redis",)] == 1
    wait_for(beat, lambda s: s["sluice_server_up", ("postgres",)] == 0, "Postgres refuses logins")
    own_stack.start("postgres")
    own_stack.start("kafka")
    wait_for(beat, lambda s: s.get(("sluice_kafka_up", ())) == 1, "all servers are up again")


def test_a_prefork_worker_shows_only_its_own_metrics_and_its_children_close_the_port(
    make_deployment: MakeDeployment,
) -> None:
    deployment = with_metrics(make_deployment)
    effects = deployment.run.start_effects()
    rebuild = deployment.run.start_rebuilds()
    for process in (effects, rebuild):
        samples = shown(process)
        assert ours(samples) == {"sluice_server_up"}
        servers = {labels: value for (name, labels), value in samples.items() if name == "sluice_server_up"}
        kafka = [("kafka",)] if process is rebuild else []
        assert servers == dict.fromkeys([("postgres",), ("redis",), *kafka], 1)
        assert samples["process_resident_memory_bytes", ()] > 0
    wait_until(
        lambda: "ready." in effects.log.read_text(), timeout_seconds=UP_SECONDS, what="effects is ready"
    )
    parent = psutil.Process(effects.pid)
    first = {child.pid for child in parent.children()}
    os.kill(min(first), signal.SIGKILL)

    def successors() -> list[psutil.Process]:
        return [child for child in parent.children() if child.pid not in first]

    # The first children were forked before the endpoint was opened. Their successor is forked while it is
    # open.
    [successor] = wait_until(successors, timeout_seconds=UP_SECONDS, what="a new child runs")
    wait_until(
        lambda: not listens(successor, effects.metrics_port),
        timeout_seconds=UP_SECONDS,
        what="the child closes the port",
    )
    assert listens(parent, effects.metrics_port)
    assert effects.stop() == 0
    assert scrape(effects.metrics_port) is None


def listens(process: psutil.Process, port: int) -> bool:
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections())


def test_a_process_with_a_used_metrics_port_is_refused(make_deployment: MakeDeployment) -> None:
    deployment = with_metrics(make_deployment)
    holder = deployment.run.start_rebuilds()
    shown(holder)
    deployment.run.with_metrics = False
    deployment.run.environment = {"SLUICE_METRICS_PORT": str(holder.metrics_port)}
    for start in (deployment.run.start_bridge, deployment.run.start_beat, deployment.run.start_relay):
        refused = start()
        assert refused.popen.wait(UP_SECONDS) != 0
        assert "SLUICE_METRICS_PORT" in refused.tail()
        assert "needs a port of its own" in refused.tail()
