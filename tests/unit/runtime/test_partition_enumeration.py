"""All code that enumerates the partitions of a topic uses the share of the installation.

A place that is not listed below fails this test: use `TopicFacts.numbers`, `PartitionShare.numbers` or a
`LogReader`, which leave out the partitions of other shares.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT

FOLDERS = (
    "bridge",
    "tasks",
    "worker",
    "db",
    "sluice/admin",
    "sluice/cli",
    "sluice/kafka_io",
    "sluice/runtime",
)
# Methods of Kafka clients that return the partitions of topics, or facts of all of them.
CLIENT_METHODS = {
    "available_partitions_for_topic",
    "beginning_offsets",
    "describe_topics",
    "end_offsets",
    "get_watermark_offsets",
    "list_offsets",
    "list_topics",
    "partitions_for_topic",
}
ALLOWED = {
    # Each of these passes the partitions through the share.
    "sluice/kafka_io/kafka_python_mends.py::_compute_facts",
    "sluice/kafka_io/log_reader.py::_describe",
    "sluice/kafka_io/topic_watch.py::_ask",
    "sluice/runtime/partition_share.py::numbers",
    # These ask only for partitions that the caller names.
    "sluice/kafka_io/leader_offsets.py::_ask",
    "sluice/kafka_io/log_reader.py::_read_offsets",
    "sluice/kafka_io/partition_reader.py::_raise_if_stalled",
    "sluice/kafka_io/raw_fetch.py::fetch_batches",
    # These read the names or the settings of topics.
    "sluice/admin/init.py::create_topics",
    "sluice/admin/sender.py::read_topics",
    "sluice/admin/doctor/kafka_reading.py::read_missing_rights",
    "sluice/kafka_io/login_check.py::_try_login",
    # These compare the number of partitions with the share.
    "sluice/admin/init.py::_refuse_undivided",
    "sluice/admin/doctor/kafka_reading.py::read_kafka",
}


def enumerations(code: str) -> Iterator[tuple[str, int]]:
    """Yields the function and the line of each enumeration of partitions."""
    for function in ast.walk(ast.parse(code)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            is_range = isinstance(called, ast.Name) and called.id == "range"
            counts = {n.attr for arg in node.args for n in ast.walk(arg) if isinstance(n, ast.Attribute)}
            counts |= {n.id for arg in node.args for n in ast.walk(arg) if isinstance(n, ast.Name)}
            is_client = isinstance(called, ast.Attribute) and called.attr in CLIENT_METHODS
            if is_client or (is_range and "partitions" in counts):
                yield function.name, node.lineno


def test_no_code_enumerates_partitions_without_the_share() -> None:
    found = {
        f"{file.relative_to(ROOT)}::{function}": line
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        for function, line in enumerations(file.read_text())
    }
    unlisted = {f"{place} (line {line})" for place, line in found.items() if place not in ALLOWED}
    assert not unlisted
    assert not ALLOWED - found.keys(), "remove places that no longer exist"


@pytest.mark.parametrize(
    "code",
    [
        "def f(t): return [(t, n) for n in range(t.partitions)]",
        "def f(known): return list(range(1, known.partitions))",
        "def f(consumer, t): return consumer.partitions_for_topic(t)",
        "def f(admin): return admin.list_topics().topics",
    ],
)
def test_the_check_finds_an_enumeration(code: str) -> None:
    assert [name for name, _ in enumerations(code)] == ["f"]


def test_the_check_passes_an_enumeration_by_the_share() -> None:
    code = "def f(known, share): return [*known.numbers, *share.numbers(known.partitions)]"
    assert not list(enumerations(code))


def test_all_folders_exist() -> None:
    assert all(Path(ROOT / folder).is_dir() for folder in FOLDERS)
