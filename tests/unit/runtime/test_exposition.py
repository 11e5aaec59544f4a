"""The endpoint for metrics, and the metrics of the bridge and of the worker."""

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.queue_messages import Resend
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.db.schema import OUTCOMES
from sluice.runtime import metrics
from sluice.runtime.exposition import Collector, MetricsEndpoint, counter, gauge
from sluice.runtime.health import process_health
from sluice.runtime.metrics import CATALOGUE, Exporter
from sluice.runtime.server_answers import ServerAnswers
from sluice.runtime.settings import Settings, SettingsError
from sluice.stack.patience import patient
from sluice.stack.ports import choose_ports, is_free
from sluice.tasks.apply.apply import Applied
from sluice.worker.worker_metrics import WorkerMetrics
from tests.scraping import ask_health, ours, scrape
from tests.unit.bridge.bridging import PLACE, Queue, assignment, holding, record

HOST = "127.0.0.1"
SERVING = """
import sys
from prometheus_client import REGISTRY
import sluice.bridge.__main__, sluice.runtime.app, sluice.worker.beat_metrics
import threading
assert threading.active_count() == 1
assert not [name for name in REGISTRY._names_to_collectors if name.startswith("sluice_")]
"""


def settings(port: int) -> Settings:
    return Settings.model_validate(
        {
            "database_url": "postgresql+psycopg2://nowhere",
            "redis_url": "redis://nowhere",
            "kafka_bootstrap_servers": "nowhere",
            "metrics_port": port,
        }
    )


@pytest.fixture
def port() -> int:
    return choose_ports(("metrics",), {}, set())["metrics"]


@pytest.fixture
def endpoint(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsEndpoint]:
    # Other tests may have named servers of this process.
    monkeypatch.setattr(process_health, "servers", ServerAnswers())
    made = MetricsEndpoint(settings(port))
    yield made
    made.close()


def shown(collectors: list[Collector]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for collector in collectors
        for family in collector.collect()
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_the_endpoint_serves_its_collectors_and_process_metrics_until_it_is_closed(
    endpoint: MetricsEndpoint, port: int
) -> None:
    runs = counter(metrics.RELAY_RUNS)
    runs.inc(3)
    endpoint.open([runs])
    samples = scrape(port) or {}
    assert ours(samples) == {"sluice_relay_runs_total"}
    assert samples["sluice_relay_runs_total", ()] == 3
    assert samples["process_resident_memory_bytes", ()] > 0
    assert ("python_gc_collections_total", ("0",)) in samples
    endpoint.close()
    endpoint.close()
    assert scrape(port) is None
    assert is_free(port)


def test_the_endpoint_answers_with_the_health_of_the_process(
    endpoint: MetricsEndpoint, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.open([])
    monkeypatch.setattr(process_health, "has_joined", False)
    process_health.note_turn()
    assert ask_health(port, "/healthz") == (200, "ok\n")
    assert ask_health(port, "/readyz") == (503, "the process has not joined its installation\n")
    monkeypatch.setattr(process_health, "has_joined", True)
    monkeypatch.setattr(process_health.servers, "probes", {})
    assert ask_health(port, "/readyz") == (200, "ok\n")
    endpoint.open([counter(metrics.RELAY_RUNS)])
    assert "sluice_relay_runs_total" in ours(scrape(port) or {}), "a second call replaces the metrics"
    assert ask_health(port, "/readyz") == (200, "ok\n")


def test_a_scrape_shows_which_servers_accept_a_login(
    endpoint: MetricsEndpoint, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ConnectionError("password authentication failed")

    monkeypatch.setattr(process_health.servers, "probes", {"Postgres": refuse, "Redis": lambda: None})
    monkeypatch.setattr(process_health.servers, "states", {"Kafka": lambda: True})
    endpoint.open([])
    samples = scrape(port) or {}
    found = {labels: value for (name, labels), value in samples.items() if name == metrics.SERVER_UP.name}
    assert found == {("postgres",): 0, ("redis",): 1, ("kafka",): 1}


def test_without_a_port_no_endpoint_is_opened() -> None:
    endpoint = MetricsEndpoint(settings(0))
    endpoint.open([counter(metrics.RELAY_RUNS)])
    endpoint.forget()
    endpoint.close()


def test_a_port_in_use_is_refused_with_advice(endpoint: MetricsEndpoint, port: int) -> None:
    with socket.create_server((HOST, port)):
        with pytest.raises(SettingsError, match=rf"SLUICE_METRICS_PORT.*{HOST}:{port}.*in use.*of its own"):
            endpoint.open([])
        endpoint.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("forgets", [True, False])
def test_a_child_can_close_its_copy_of_the_port_and_the_parent_keeps_the_port(
    endpoint: MetricsEndpoint, port: int, forgets: bool
) -> None:
    endpoint.open([])
    endpoint.forget()
    assert scrape(port), "`forget` has no effect in the process that opened the endpoint"
    ours_end, childs_end = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours_end.close()
        if forgets:
            endpoint.forget()
        childs_end.send(b"ready")
        childs_end.recv(1)
        os._exit(0)
    with ours_end:
        childs_end.close()
        assert ours_end.recv(5) == b"ready"
        endpoint.close()
        assert is_free(port) == forgets
    assert os.waitpid(child, 0)[1] == 0


def test_importing_the_processes_starts_no_thread_and_registers_no_metric() -> None:
    subprocess.run([sys.executable, "-c", SERVING], check=True, timeout=patient(60))


def test_a_metric_can_only_be_made_with_its_declared_kind() -> None:
    with pytest.raises(AssertionError):
        gauge(metrics.RELAY_RUNS)


def test_the_bridge_exports_all_its_metrics() -> None:
    bridge, queue = BridgeMetrics(), Queue()
    queue.add(0, range(3))
    bridge.note_read("t", 3)
    bridge.note_published(queue.send(0).slices)
    bridge.note_resent([Resend.WIPED, Resend.WIPED, Resend.SILENT])
    inflight = holding({PLACE: assignment()})
    inflight.take(PLACE, [record(offset) for offset in range(5)], 0)
    bridge.note_kafka_error("_TRANSPORT")
    bridge.show_problems(
        {
            PLACE: PartitionProblem(ProblemKind.NO_LEADER, "no broker leads it"),
            ("t", 1): PartitionProblem(ProblemKind.UNREADABLE_RECORD, "it cannot be unpacked", 41),
        }
    )
    bridge.measure(inflight, postgres_up=True, redis_up=False, redis_full=True)
    found = shown(bridge.collectors())
    assert {name for name, *_ in found} == {m.name for m in CATALOGUE if m.exporter is Exporter.BRIDGE}
    resent = {key[1]: value for key, value in found.items() if key[0] == metrics.BRIDGE_RESENT_LANES.name}
    assert resent == {"overtaken": 0, "silent": 1, "stuck": 0, "halted": 0, "wiped": 2}
    assert found[metrics.BRIDGE_READ_RECORDS.name, "t"] == 3
    assert found[metrics.BRIDGE_KAFKA_ERRORS.name, "_TRANSPORT"] == 1
    assert found[metrics.BRIDGE_PARTITION_PROBLEM.name, "t", "0", "no_leader"] == 1
    assert found[metrics.BRIDGE_UNREADABLE_RECORD_OFFSET.name, "t", "1"] == 41
    bridge.show_problems({})
    assert not {name for name, *labels in shown(bridge.collectors()) if labels[:1] == ["t"] and labels[1:]}
    one_value = {key[0]: value for key, value in found.items() if len(key) == 1}
    assert one_value == {
        metrics.BRIDGE_PUBLISHED_MESSAGES.name: 1,
        metrics.BRIDGE_PUBLISHED_RECORDS.name: 3,
        metrics.BRIDGE_HELD_BYTES.name: inflight.partitions[PLACE].held_bytes,
        metrics.BRIDGE_SPAN_RECORDS.name: 5,
        metrics.BRIDGE_PARTITIONS.name: 1,
        metrics.BRIDGE_POSTGRES_UP.name: 1,
        metrics.BRIDGE_REDIS_UP.name: 0,
        metrics.BRIDGE_REDIS_FULL.name: 1,
    }


def test_the_worker_counts_outcomes_and_batches() -> None:
    worker = WorkerMetrics()
    ways = {"optimistic": 3, "rolled back": 1}
    worker.note_batch(
        Applied(Counter(applied=5, dead=1), Counter(), without_id=Counter(t=2), ways=ways), 0.25
    )
    worker.note_batch(None, 20.0)
    worker.watch_leases(lambda: 4)
    found = shown(worker.collectors((), shares_queues=True))
    outcomes = {key[1]: value for key, value in found.items() if key[0] == metrics.WORKER_RECORDS.name}
    assert outcomes == dict.fromkeys(OUTCOMES, 0) | {"applied": 5, "dead": 1}
    batches = metrics.WORKER_BATCH_SECONDS.name
    assert (found[(f"{batches}_count",)], found[(f"{batches}_sum",)]) == (2, 20.25)
    assert found[(metrics.WORKER_ABORTED_BATCHES.name,)] == 1
    assert found[metrics.WORKER_MISSING_ID_EVENTS.name, "t"] == 2
    assert found[metrics.WORKER_TRANSACTIONS.name, "optimistic"] == 3
    assert found[metrics.WORKER_TRANSACTIONS.name, "rolled back"] == 1
    assert found[(metrics.WORKER_LEASED_QUEUES.name,)] == 4


BATCHES = {
    metrics.WORKER_BATCH_SECONDS,
    metrics.WORKER_RECORDS,
    metrics.WORKER_MISSING_ID_EVENTS,
    metrics.WORKER_ABORTED_BATCHES,
    metrics.WORKER_TRANSACTIONS,
    metrics.WORKER_RETRIES,
}
RELAY = {metrics.RELAY_SENT_RECORDS, metrics.RELAY_RUNS, metrics.PURGED_ROWS, metrics.PURGE_FAILURES}


@pytest.mark.parametrize(
    ("queues", "shares", "wanted"),
    [
        (["order.0", "order.1"], False, BATCHES),
        ([], True, BATCHES | {metrics.WORKER_LEASED_QUEUES}),
        (["relay", "maintenance"], False, RELAY),
        (["relay", "order.0"], False, RELAY | BATCHES),
        (["effects"], False, set()),
        (["rebuild"], False, set()),
    ],
    ids=["named queues", "shared queues", "relay", "relay and a named queue", "effects", "rebuild"],
)
def test_a_worker_exports_only_the_metrics_of_its_queues(
    queues: list[str], shares: bool, wanted: set[metrics.Metric]
) -> None:
    collectors = WorkerMetrics().collectors(queues, shares_queues=shares)
    names = {family.name for collector in collectors for family in collector.collect()}
    wanted = wanted | {metrics.WORKER_DROPPED_MESSAGES}
    assert names == {
        metric.name.removesuffix("_total") for metric in wanted | {metrics.WORKER_DROPPED_MESSAGES}
    }
