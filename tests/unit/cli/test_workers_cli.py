"""Tests what `sluice workers` prints about the workers that share the queues."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sluice.admin.documents import as_json
from sluice.admin.workers import name_queues, sharing_document
from sluice.cli.tables import table_lines
from sluice.cli.workers import NOT_SEEN, lines_below, worker_table
from sluice.db.delivery.leases import Lease, Sharing, Worker

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


BUSY = Worker(
    backend_pid=71,
    node="one@host",
    process_id=4711,
    joined_at=ago(7_300),
    heartbeat_at=ago(0.5),
    leases={"order.10": ago(600), "order.2": ago(5), "order.3": None},
    busy_queue="order.2",
    busy_since=ago(3),
    last_queue="order.10",
    last_at=ago(4),
    last_records=200,
    last_seconds=0.0456,
)
IDLE = Worker(72, "two@host", 4712, ago(1), ago(-0.1), {}, None, None, None, None, None, None)
SHARING = Sharing(
    NOW,
    (
        Lease("order.0", False, None),
        Lease("order.10", True, 71),
        Lease("order.11", True, None),
        Lease("order.2", False, 71),
        Lease("order.3", False, 71),
        Lease("order.4", False, 73),
    ),
    (BUSY, IDLE),
)


def table(sharing: Sharing) -> list[list[str]]:
    return [line.split() for line in table_lines(worker_table(sharing))]


def test_a_row_shows_the_leases_and_the_batches_of_a_worker() -> None:
    headings, busy, idle = table(SHARING)
    assert headings == ["worker", "pid", "since", "queues", "leases", "busy", "last", "batch"]
    assert " ".join(busy) == (
        "one@host 4711 2h ago order.2 order.3 (retired: order.10) 5s-10m order.2 for 3s"
        " order.10 4s ago: records 200, 46 ms"
    )
    assert " ".join(idle) == "two@host 4712 1s ago - - - -"


def test_equal_ages_of_leases_are_printed_one_time_and_unknown_ages_as_a_dash() -> None:
    young = replace(SHARING, workers=(BUSY._replace(leases={"order.2": ago(5), "order.3": ago(5.2)}),))
    assert table(young)[1][6] == "5s"
    untold = replace(SHARING, workers=(BUSY._replace(leases={"order.2": None}),))
    assert table(untold)[1][5] == "-"


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, ["queues without a worker: order.0", NOT_SEEN]),
        ({"leases": SHARING.leases[1:]}, [NOT_SEEN]),
        (
            {"workers": (), "leases": (Lease("order.10", False, None), Lease("order.9", False, None))},
            [
                "no worker shares the queues: start one by `sluice worker`",
                "queues without a worker: order.9 order.10",
                NOT_SEEN,
            ],
        ),
        ({"workers": (), "leases": ()}, ["no queue has a row: run `sluice init`"]),
    ],
    ids=["a queue has no worker", "all queues have a worker", "no worker runs", "no queue has a row"],
)
def test_the_lines_below_the_table_name_queues_without_a_worker_and_the_limits_of_the_list(
    changed: dict[str, Any], lines: list[str]
) -> None:
    assert lines_below(replace(SHARING, **changed)) == lines


@pytest.mark.parametrize(
    ("queues", "named"),
    [
        (["payment.2", "order.0", "payment.10"], "order.0 payment.2 payment.10"),
        (["a.3", "a.1", "a.2", "a.5", "a.6", "b.7"], "a.1-3 a.5 a.6 b.7"),
        (["a.b.0", "a.b.1", "a.b.2", "a.3"], "a.3 a.b.0-2"),
        ([], ""),
    ],
)
def test_consecutive_queues_are_named_as_a_range(queues: list[str], named: str) -> None:
    assert name_queues(queues) == named


def test_a_holder_without_a_heartbeat_is_named_by_its_session() -> None:
    assert SHARING.holders() == {
        "order.10": "one@host",
        "order.2": "one@host",
        "order.3": "one@host",
        "order.4": "session 73",
    }


def test_the_json_document_computes_ages_by_the_clock_of_postgres() -> None:
    document = msgspec.json.decode(as_json(sharing_document(SHARING)))
    assert document["at"] == "2026-01-02T03:04:05Z"
    assert document["queues_without_worker"] == ["order.0"]
    busy, idle = document["workers"]
    assert busy == {
        "node": "one@host",
        "process_id": 4711,
        "backend_pid": 71,
        "joined_at": "2026-01-02T01:02:25Z",
        "heartbeat_at": "2026-01-02T03:04:04.500000Z",
        "queues": [
            {"queue": "order.2", "retired": False, "since": "2026-01-02T03:04:00Z", "seconds": 5.0},
            {"queue": "order.3", "retired": False, "since": None, "seconds": None},
            {"queue": "order.10", "retired": True, "since": "2026-01-02T02:54:05Z", "seconds": 600.0},
        ],
        "busy": {"queue": "order.2", "since": "2026-01-02T03:04:02Z", "seconds": 3.0},
        "last_batch": {
            "queue": "order.10",
            "ended_at": "2026-01-02T03:04:01Z",
            "seconds_ago": 4.0,
            "records": 200,
            "took_ms": 46,
        },
    }
    assert (idle["queues"], idle["busy"], idle["last_batch"]) == ([], None, None)


def test_an_age_is_never_negative() -> None:
    ahead = BUSY._replace(joined_at=ago(-2), last_at=ago(-1), busy_since=ago(-1))
    [worker] = sharing_document(replace(SHARING, workers=(ahead,)))["workers"]
    assert (worker["busy"]["seconds"], worker["last_batch"]["seconds_ago"]) == (0, 0)
    assert "0s ago" in " ".join(table(replace(SHARING, workers=(ahead,)))[1])
