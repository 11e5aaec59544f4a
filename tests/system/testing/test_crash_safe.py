"""`assert_crash_safe` passes for the shop and fails for a handler that keeps state in memory."""

import os
from contextlib import closing
from typing import Any

import pytest

from sluice.admin.redis_keys import open_redis, read_prefixes
from sluice.bridge.queue_buffer import FULL_RECORDS
from sluice.kafka_io.config import build_kafka_python_admin
from sluice.runtime.fault_points import POINTS
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from sluice.testing import Incoming, Servers, assert_crash_safe
from sluice.testing.servers.crash_safe import CRASH_POINTS, call_complaints
from sluice.testing.servers.processes import Start
from tests.waiting import wait_until

ORDER: dict[str, Any] = {"customer_id": "c-1", "email": "a@example.org", "total_cents": 5}
SHOP = [
    *(Incoming("orders", key=f"o-{n}", type="order.placed", data=ORDER) for n in range(5)),
    *(
        Incoming("captures", key=f"p-{n}", type="payment.approved", data={"amount_cents": n + 1})
        for n in range(5)
    ),
    *(
        Incoming("users", key=f"u-{n % 2}", type="user.changed", data={"name": f"n{n}"}, version=n)
        for n in range(4)
    ),
    Incoming("users", key="u-1", version=9),
]


@pytest.fixture
def servers(kafka: Stack, postgres: Stack, redis_url: str) -> Servers:
    """Returns the servers of the test run, with a Redis database for this test."""
    named = StackUrls(postgres.database_url("postgres"), redis_url, kafka.kafka_bootstrap_servers())
    return Servers(postgres, named.environ())


@pytest.mark.parametrize(
    "points",
    [
        # One point of each process, because the time increases with each kill.
        ("bridge.before_progress", "apply.before_commit", "relay.handed", "effect.answered"),
        pytest.param(CRASH_POINTS, marks=pytest.mark.matrix),
    ],
    ids=["one of each process", "all points"],
)
def test_a_shop_with_killed_processes_is_crash_safe(
    points: tuple[str, ...], servers: Servers, start: Start, redis_url: str, kafka: Stack
) -> None:
    report = assert_crash_safe("examples.shop.handlers", SHOP, points=points, servers=servers, start=start)
    assert set(report.killed) == set(points)
    assert report.not_reached == ()
    # The run deletes its keys and topics, because other programs may use these servers.
    with closing(open_redis(redis_url)) as client:
        assert read_prefixes(client) == []
    with closing(build_kafka_python_admin(KafkaAccess(kafka.kafka_bootstrap_servers()))) as admin:
        mine = f"-crash-{os.getpid()}-"
        wait_until(
            lambda: not [topic for topic in admin.list_topics() if mine in topic],
            timeout_seconds=30,
            what="the topics of the run are deleted",
        )


@pytest.mark.matrix
def test_a_handler_that_keeps_state_in_memory_is_not_crash_safe(servers: Servers, start: Start) -> None:
    # There are more events than one batch has. So the restarted worker applies some of them, but does not
    # have the count of the first worker.
    events = [
        Incoming("orders", key="o-1", type="order.set", data={}, version=1),
        *(
            Incoming("orders", key="o-1", type="order.remembered", data={}, version=n)
            for n in range(FULL_RECORDS + 100)
        ),
    ]
    with pytest.raises(AssertionError, match=r"after kills at apply.committed:\norders o-1: expected"):
        assert_crash_safe(
            "tests.unit.testing.planted",
            events,
            points=("apply.committed",),
            servers=servers,
            start=start,
        )


def test_all_fault_points_of_the_processes_are_crash_points() -> None:
    of_processes = {"apply", "bridge", "effect", "relay"}
    assert set(CRASH_POINTS) == {point for point in POINTS if point.partition(".")[0] in of_processes}


def test_lost_repeated_and_unknown_calls_are_reported() -> None:
    keys = ("a:1", "a:2", "a:3", "r:1", "r:2", "r:3")
    calls = [(key, "ask" if key.startswith("a") else "retry") for key in keys]
    made = ["a:1", "a:2", "a:2", "r:1", "r:2", "r:2", "x"]
    assert call_complaints(calls, made) == [
        "call a:2: made 2 times",
        "call r:3: never made",
        "call x: made, but not in the ledger",
    ]


@pytest.mark.parametrize(
    ("points", "message"),
    [(("apply.never",), "unknown point 'apply.never'; known: bridge.half_published")],
)
def test_an_unknown_point_is_refused(points: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assert_crash_safe("examples.shop.handlers", SHOP, points=points)
