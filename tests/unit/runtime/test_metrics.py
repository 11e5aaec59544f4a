"""Metrics have names with units, are declared in one catalogue, and are documented exactly as declared."""

import ast
import re
from itertools import chain
from pathlib import Path

import pytest
import yaml

from sluice.runtime import metrics
from sluice.runtime.metrics import CATALOGUE, Metric

ROOT = Path(__file__).parents[3]
CODE = [
    path
    for folder in ("bridge", "db", "examples", "sluice", "tasks", "worker")
    for path in (ROOT / folder).rglob("*.py")
]
DECLARING, MAKING = ROOT / "sluice/runtime/metrics.py", ROOT / "sluice/runtime/exposition.py"
DECLARED = {name: value for name, value in vars(metrics).items() if isinstance(value, Metric)}
ROW = re.compile(r"^\| `(sluice_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)

each = pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)


def test_every_declaration_is_in_the_catalogue_one_time() -> None:
    assert list(DECLARED.values()) == list(CATALOGUE)
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE) > 25


@each
def test_the_name_of_a_metric_is_well_formed_and_ends_with_its_unit(metric: Metric) -> None:
    assert re.fullmatch(r"sluice(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    name = metric.name.removesuffix("_total")
    if metric.unit:
        assert name.endswith(f"_{metric.unit}")
    else:
        assert metric.kind == "gauge"
        flags = r"_(up|full|leads|paused|problem)$"
        assert re.search(flags, name) or name.endswith("_offset"), "a metric without a unit is 0 or 1"


@each
def test_a_metric_has_a_meaning_and_only_a_histogram_has_buckets(metric: Metric) -> None:
    assert metric.meaning
    assert "|" not in metric.meaning
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_makes_only_metrics_of_the_catalogue(path: Path) -> None:
    assert complaints(path, path.read_text()) == []


def complaints(path: Path, text: str) -> list[str]:
    """Returns the uses of metrics in the code that bypass the catalogue."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names) if any(n.name.startswith("prometheus_client") for n in names):
                found.append("imports the client")
            case ast.ImportFrom(module=str(module)) if module.startswith("prometheus_client"):
                if path != MAKING:
                    found.append("imports the client")
            case ast.Call(func=ast.Name(id="Metric") | ast.Attribute(attr="Metric")) if path != DECLARING:
                found.append("declares a metric")
            case ast.Constant(value=str(value)) if path != DECLARING and is_metric_name(value):
                found.append(f"writes the name {value}")
            case ast.Attribute(value=ast.Name(id="metrics"), attr=attribute) if attribute.isupper():
                if attribute not in DECLARED:
                    found.append(f"uses {attribute}, which is not declared")
    return found


def is_metric_name(text: str) -> bool:
    return text in {metric.name for metric in CATALOGUE} or bool(re.fullmatch(r"sluice_\w+_total", text))


@pytest.mark.parametrize(
    "text",
    [
        "import prometheus_client",
        "from prometheus_client import Counter",
        "from prometheus_client.core import REGISTRY",
        "Metric('sluice_x')",
        "name = 'sluice_lag_records'",
        "counter(metrics.NO_SUCH_RECORDS)",
    ],
)
def test_the_check_finds_code_that_bypasses_the_catalogue(text: str) -> None:
    assert complaints(ROOT / "worker/other.py", text)


def test_every_metric_is_used_in_the_code() -> None:
    used = {
        node.attr
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "metrics"
    }
    assert DECLARED.keys() - used == set()


def test_the_table_in_the_documents_equals_the_catalogue() -> None:
    listed = ROW.findall((ROOT / "docs/metrics.md").read_text())
    wanted = [
        (m.name, m.kind, ", ".join(f"`{label}`" for label in m.labels) or "–", m.exporter.value, m.meaning)
        for m in CATALOGUE
    ]
    assert listed == wanted


def test_the_alert_rules_use_only_metrics_and_labels_of_the_catalogue() -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    labels = {metric.name: set(metric.labels) for metric in CATALOGUE}
    assert len(rules) >= 8
    for rule in rules:
        used = set(re.findall(r"sluice_\w+", rule["expr"]))
        assert used <= labels.keys(), rule["alert"]
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert shown <= set().union(*(labels[name] for name in used)), rule["alert"]


def test_each_alert_of_the_page_is_a_rule() -> None:
    page = (ROOT / "docs/metrics.md").read_text().partition("## What to alert on")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    expressions = "\n".join(rule["expr"].replace(" or ", "\n") for rule in rules)
    limit = re.compile(r"(sluice_\w+).*?([<>=!]=?) ([\d.]+)(?:`|$)", re.MULTILINE)
    assert sorted(limit.findall(expressions)) == sorted(chain(*map(limit.findall, rows)))
