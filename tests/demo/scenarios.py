"""Scenarios of what comes in: 1a, 1b, 2 and 4. Each produces, does harm, waits, and looks."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from examples.shop import tables
from examples.shop.generate import OutgoingRecord, event, generate
from sluice.db.admin.totals import read_totals
from tests.demo.verdict import ScenarioResult
from tests.harness.deployment import Deployment

Say = Callable[[str], None]

PAYMENTS, SENT_TWICE = 6_000, 500
SALES = 3_000
FAULT_DEADLINE_SECONDS = 60
LOAD_TOPICS = ("payments", "stock-updates")


def play_1a(deployment: Deployment, say: Say) -> Iterator[ScenarioResult]:
    """Duplicate delivery: one row per payment, whoever is killed."""
    payments = list(generate("payments", count=PAYMENTS, seed=1))
    repeats = random.Random(1).sample(payments, SENT_TWICE)
    run = deployment.run
    say("1a: a worker that is killed after COMMIT, a bridge that is killed before its own")
    doomed_worker = run.start_worker(deployment.queues("payment"), faults="apply.committed:3:kill")
    doomed_bridge = run.start_bridge(faults="bridge.before_progress:4:kill")
    deployment.produce(payments[: PAYMENTS // 2])
    for process in (doomed_bridge, doomed_worker):
        deployment.wait_until(
            lambda process=process: process.exit_code is not None,  # type: ignore[misc]
            timeout_seconds=FAULT_DEADLINE_SECONDS,
            what=f"the fault point kills the {process.name}",
        )
        yield ScenarioResult("1a", f"kill -9 of the {process.name}", -9, process.exit_code)
        if process is doomed_bridge:
            # The worker ends at its third batch: on a slow machine only a successor publishes it.
            run.start_bridge()
    run.start_worker(deployment.queues("payment"))
    deployment.produce(repeats + payments[PAYMENTS // 2 :])
    say("1a: Redis is wiped under load")
    deployment.wipe_redis()
    deployment.wait_settled()
    outcomes = deployment.outcomes("payments")
    yield ScenarioResult("1a", "all payments", PAYMENTS, len(deployment.rows(tables.transactions)))
    yield ScenarioResult(
        "1a",
        f"{SENT_TWICE} sent twice, Redis wiped",
        {"applied": PAYMENTS, "duplicate": SENT_TWICE},
        dict(outcomes),
    )


def play_1b(deployment: Deployment, say: Say) -> Iterator[ScenarioResult]:
    """A late event and its repeats: the newer balance stands."""
    say("1b: the balance of 10:00:00 after the one of 10:00:05, and twice")
    newer, older = _balance("10:00:05", 170_000, "b-2"), _balance("10:00:00", 150_000, "b-1")
    other_id = _balance("10:00:00", 150_000, "b-3")
    deployment.run.start_worker(deployment.queues("balance", "user"), name="worker-others")
    deployment.produce([newer, older, older, other_id])
    deployment.wait_settled()
    found = deployment.rows(tables.account_balances)["acc-42"]["balance_cents"]
    yield ScenarioResult("1b", "late event, same event twice, again under another id", 170_000, found)
    wanted = {"applied": 1, "stale": 2, "duplicate": 1}
    yield ScenarioResult("1b", "counted", wanted, dict(deployment.outcomes("balances")))


def play_2(deployment: Deployment, say: Say) -> Iterator[ScenarioResult]:
    """Two workers on one queue: never a lost update, never below the floor."""
    say("2: two workers consume the same queues, on purpose")
    queues = deployment.queues("stock")
    twins = [deployment.run.start_worker(queues, name=f"worker-twin-{n}") for n in (1, 2)]
    deployment.produce([_stock("stock.received", 100), _stock("stock.sold", 3), _stock("stock.sold", 5)])
    deployment.wait_settled()
    found = deployment.rows(tables.stock)["product-42"]["on_hand"]
    yield ScenarioResult("2", "two workers on one queue: 100 − 3 − 5", 92, found)
    deployment.produce(generate("stock", count=SALES, seed=2, keys=20))
    deployment.wait_settled()
    yield ScenarioResult(
        "2", f"{SALES} sales, two workers on one queue", [], deployment.complaints([tables.stock])
    )
    for twin in twins:
        twin.stop()
    deployment.run.start_worker(queues, name="worker-stock")
    deployment.produce(generate("stock", count=SALES, seed=3, keys=20))
    deployment.wait_settled()
    yield ScenarioResult("2", f"{SALES} more, properly routed", [], deployment.complaints([tables.stock]))
    lowest = min(row["on_hand"] for row in deployment.rows(tables.stock).values())
    yield ScenarioResult("2", "never below zero", True, lowest >= 0)


def play_4(deployment: Deployment, say: Say) -> Iterator[ScenarioResult]:
    """Changes out of order: per field both stand, of whole rows the newer one."""
    say("4: version 42 before version 41")
    deployment.produce(
        [
            _user("user-7", "user.changed", {"name": "Grace"}, 42),
            _user("user-7", "user.changed", {"email": "grace@example.org"}, 41),
            _user("user-8", "user.replaced", {"name": "New", "email": "new@example.org"}, 42),
            _user("user-8", "user.replaced", {"name": "Old", "email": "old@example.org"}, 41),
            _user("user-8", "user.replaced", {"name": "Other", "email": "new@example.org"}, 42),
        ]
    )
    deployment.wait_settled()
    users = deployment.rows(tables.users)
    both = {"name": "Grace", "email": "grace@example.org"}
    yield ScenarioResult("4", "42 before 41, other fields", both, users["user-7"])
    newer = {"name": "New", "email": "new@example.org"}
    yield ScenarioResult("4", "42 before 41, whole rows", newer, users["user-8"])
    wanted = {"applied": 3, "stale": 1, "conflict": 1}
    yield ScenarioResult(
        "4", "same version, other content: listed", wanted, dict(deployment.outcomes("users"))
    )


def look_at_all(deployment: Deployment, say: Say) -> Iterator[ScenarioResult]:
    """What all scenarios left, beside the fold of the log."""
    say("all: tables, outgoing events, calls and counters beside the fold of the log")
    expectation = deployment.expectation()
    yield ScenarioResult("all", "everything beside the fold", [], deployment.complaints(deployment.tables()))
    counted = sum(count for _, _, count in read_totals(deployment.session))
    yield ScenarioResult("all", "every record has one outcome", expectation.records, counted)


def _balance(time: str, cents: int, event_id: str) -> OutgoingRecord:
    made = _named(event_id, "balance.set", {"balance_cents": cents})
    return OutgoingRecord("balances", "acc-42", {**made, "occurred_at": f"2026-01-01T{time}Z"})


def _stock(kind: str, quantity: int) -> OutgoingRecord:
    data = {"quantity": quantity}
    return OutgoingRecord("stock-updates", "product-42", _named(f"{kind}-{quantity}", kind, data))


def _user(user_id: str, kind: str, data: dict[str, Any], version: int) -> OutgoingRecord:
    made = _named(f"{user_id}-{version}-{sorted(data.items())}", kind, data)
    return OutgoingRecord("users", user_id, {**made, "version": version})


def _named(event_id: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {**event(random.Random(0), kind, data), "event_id": event_id}


INCOMING = (play_1a, play_1b, play_2, play_4)
