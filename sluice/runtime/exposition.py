"""Makes metrics from the catalogue, and serves the metrics and the health of this process by HTTP."""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
    start_http_server,
)
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sluice.runtime import metrics
from sluice.runtime.health import ProcessHealth, process_health
from sluice.runtime.metrics import Metric
from sluice.runtime.server_answers import ServerAnswers
from sluice.runtime.settings import Settings, SettingsError

__all__ = ["Collector", "Counter", "Gauge", "GaugeMetricFamily", "Histogram", "MetricsEndpoint"]


def counter(metric: Metric) -> Counter:
    """Returns a counter that no endpoint serves yet."""
    assert metric.kind == "counter"
    return Counter(metric.name, metric.meaning, metric.labels, registry=None)


def gauge(metric: Metric) -> Gauge:
    """Returns a gauge that no endpoint serves yet."""
    assert metric.kind == "gauge"
    return Gauge(metric.name, metric.meaning, metric.labels, registry=None)


def histogram(metric: Metric) -> Histogram:
    """Returns a histogram that no endpoint serves yet."""
    assert metric.kind == "histogram"
    return Histogram(metric.name, metric.meaning, metric.labels, buckets=metric.buckets, registry=None)


def gauge_family(metric: Metric) -> GaugeMetricFamily:
    """Returns the values of a gauge at one moment. For collectors, which read new values at each scrape."""
    assert metric.kind == "gauge"
    return GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)


SCRAPE_SECONDS = 4.0
"""The longest time for which a scrape waits for a server. Prometheus waits for ten seconds by default."""


class ServersCollector(Collector):
    """Exports which servers answer this process. Asks them at a scrape."""

    def __init__(self, servers: ServerAnswers) -> None:
        self._servers = servers

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yields the current metric. It has no value before the process has joined its installation."""
        family = gauge_family(metrics.SERVER_UP)
        for server, answers in self._servers.all(SCRAPE_SECONDS).items():
            family.add_metric((server.lower(),), answers)
        yield family


class MetricsEndpoint:
    """An HTTP server with its own threads. Without SLUICE_METRICS_PORT there is no server."""

    def __init__(self, settings: Settings) -> None:
        """Stores the address. `open` opens the port; a process that forks calls `open` after the fork."""
        self._host, self._port = settings.metrics_host, settings.metrics_port
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None
        self._owner = 0

    def open(self, collectors: Iterable[Collector]) -> None:
        """Serves these metrics, the standard metrics of a Python process, and its health.

        A second call replaces the metrics. Raises SettingsError.
        """
        if not self._port:
            return
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series per counter that says when this process began
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        for collector in (ServersCollector(process_health.servers), *collectors):
            registry.register(collector)
        self._owner = os.getpid()
        try:
            if self._server is None:
                self._server, self._thread = start_http_server(self._port, addr=self._host, registry=registry)
        except OSError as error:
            raise SettingsError(
                f"SLUICE_METRICS_PORT: cannot serve metrics on {self._host}:{self._port}: {error.strerror}."
                " Each process on one machine needs a port of its own: set another one, or 0 for none."
            ) from error
        self._server.set_app(_with_health(make_wsgi_app(registry), process_health))

    def close(self) -> None:
        """Ends the server. Idempotent."""
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            self._thread.join()
            server.server_close()

    def forget(self) -> None:
        """Closes the port in a child process, or it would stay open after the end of the parent.

        Idempotent.
        """
        if self._server is not None and self._owner != os.getpid():
            self._server.socket.close()
            self._server = None


def _with_health(metrics: Any, health: ProcessHealth) -> Callable[..., Any]:
    """Returns the WSGI application that answers /healthz and /readyz, and serves the metrics elsewhere."""
    complaints = {"/healthz": health.live_complaint, "/readyz": health.ready_complaint}

    def respond(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        complain = complaints.get(environ["PATH_INFO"])
        if complain is None:
            return metrics(environ, start_response)
        complaint = complain()
        status = "503 Service Unavailable" if complaint else "200 OK"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{complaint or 'ok'}\n".encode()]

    return respond
