"""The processes that report if Kafka answers."""

import pytest

from sluice.db.records import ProcessKind
from sluice.tasks.installation.readiness import uses_kafka


@pytest.mark.parametrize(
    ("kind", "queues", "expected"),
    [
        (ProcessKind.BRIDGE, None, False),  # reports the state of its own connections
        (ProcessKind.BEAT, None, True),
        (ProcessKind.WORKER, None, False),
        (ProcessKind.WORKER, {"orders.0", "effects"}, False),
        (ProcessKind.WORKER, {"relay", "maintenance"}, True),
        (ProcessKind.WORKER, {"rebuild"}, True),
    ],
)
def test_a_process_reports_kafka_if_it_uses_kafka(
    kind: ProcessKind, queues: set[str] | None, expected: bool
) -> None:
    assert uses_kafka(kind, queues) is expected
