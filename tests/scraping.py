"""Reads the metrics endpoint of a process."""

from collections.abc import Iterable

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from sluice.stack.patience import patient

Samples = dict[tuple[str, tuple[str, ...]], float]
"""Maps (metric name, label values in the order of the label names) to the value."""

ANSWER_SECONDS = 10.0  # the default timeout of a scrape by Prometheus


def scrape(port: int) -> Samples | None:
    """Returns all samples, or None if no process listens at the port."""
    try:
        with urllib3.PoolManager(timeout=patient(ANSWER_SECONDS), retries=False) as http:
            response = http.request("GET", f"http://127.0.0.1:{port}/metrics")
    except urllib3.exceptions.HTTPError:
        return None
    assert response.status == 200, response.data
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.data.decode())
        for sample in family.samples
    }


def ask_health(port: int, path: str) -> tuple[int, str] | None:
    """Returns status and text of /healthz or /readyz, or None if no process listens at the port."""
    try:
        with urllib3.PoolManager(timeout=patient(ANSWER_SECONDS), retries=False) as http:
            response = http.request("GET", f"http://127.0.0.1:{port}{path}")
    except urllib3.exceptions.HTTPError:
        return None
    return response.status, response.data.decode()


def ours(samples: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """Returns the names of Sluice's own metrics in the samples."""
    return {name for name, _ in samples if name.startswith("sluice_")}
