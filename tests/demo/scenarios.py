"""Scenarios of what comes in: 1a, 1b, 2 and 4. Each produces, does harm, waits, and looks."""

import random
from collections.abc import Iterator
from typing import Any

from examples.shop import tables
from examples.shop.generate import OutgoingRecord, event, generate
from sluice.db.admin.totals import read_totals
from tests.demo.report import Check, cents, count, counts, differences, fields
from tests.demo.stage import Stage


def play_1a(stage: Stage) -> Iterator[Check]:
    """Duplicate delivery: one row per payment, whoever is killed."""
    deployment, run, sizes = stage.deployment, stage.deployment.run, stage.sizes
    payments = list(generate("payments", count=sizes.payments, seed=1))
    repeats = random.Random(1).sample(payments, sizes.sent_twice)
    stage.do("A worker is killed after its COMMIT, and a bridge before it stores its progress.")
    queues = deployment.queues("payment")
    doomed_worker = run.start_worker(queues, name="worker-payment", faults="apply.committed:3:kill")
    doomed_bridge = run.start_bridge(faults="bridge.before_progress:4:kill")
    deployment.produce(payments[: sizes.payments // 2])
    yield stage.wait_killed(doomed_bridge, "before it stores its progress")
    # The worker ends at its third batch: on a slow machine only a successor publishes it.
    run.start_bridge()
    yield stage.wait_killed(doomed_worker, "after its COMMIT")
    stage.serve("payment")
    stage.do(f"{sizes.sent_twice:,} of {sizes.payments:,} payments are sent twice.")
    deployment.produce(repeats + payments[sizes.payments // 2 :])
    stage.do("Redis is wiped under load.")
    deployment.wipe_redis()
    deployment.wait_settled()
    rows = len(deployment.rows(tables.transactions))
    yield Check("Each payment has one row: {}.", sizes.payments, rows, count("row"))
    yield Check(
        "Each payment is applied once, and its repeat is recognised: {}.",
        {"applied": sizes.payments, "duplicate": sizes.sent_twice},
        dict(deployment.outcomes("payments")),
        counts,
    )


def play_1b(stage: Stage) -> Iterator[Check]:
    """A late event and its repeats: the newer balance stands."""
    deployment = stage.deployment
    stage.do("The balance of 10:00:00 arrives after the balance of 10:00:05, twice, and under another id.")
    newer, older = _balance("10:00:05", 170_000, "b-2"), _balance("10:00:00", 150_000, "b-1")
    other_id = _balance("10:00:00", 150_000, "b-3")
    stage.serve("balance", "user")
    deployment.produce([newer, older, older, other_id])
    deployment.wait_settled()
    found = deployment.rows(tables.account_balances)["acc-42"]["balance_cents"]
    yield Check("The newer balance stands: {}.", 170_000, found, cents)
    wanted = {"applied": 1, "stale": 2, "duplicate": 1}
    yield Check("Each event is counted once: {}.", wanted, dict(deployment.outcomes("balances")), counts)


def play_2(stage: Stage) -> Iterator[Check]:
    """Two workers on one queue: never a lost update, never below the floor."""
    deployment, run, sales = stage.deployment, stage.deployment.run, stage.sizes.sales
    stage.do("Two workers consume the same queues, on purpose.")
    stage.read_on()
    queues = deployment.queues("stock")
    twins = [run.start_worker(queues, name=f"worker-twin-{n}") for n in (1, 2)]
    deployment.produce([_stock("stock.received", 100), _stock("stock.sold", 3), _stock("stock.sold", 5)])
    deployment.wait_settled()
    found = deployment.rows(tables.stock)["product-42"]["on_hand"]
    yield Check("Of 100 pieces, 3 and 5 are sold: {} are left.", 92, found, count("piece"))
    stage.do(f"{sales:,} sales by two workers at once, then {sales:,} by one worker.")
    deployment.produce(generate("stock", count=sales, seed=2, keys=20))
    deployment.wait_settled()
    complaints = deployment.complaints([tables.stock])
    yield Check("The stock after the sales by two is that of the log: {}.", [], complaints, differences)
    for twin in twins:
        twin.stop()
    run.start_worker(queues, name="worker-stock")
    deployment.produce(generate("stock", count=sales, seed=3, keys=20))
    deployment.wait_settled()
    complaints = deployment.complaints([tables.stock])
    yield Check("The stock after the sales by one is that of the log: {}.", [], complaints, differences)
    lowest = min(row["on_hand"] for row in deployment.rows(tables.stock).values())
    yield Check("No stock is below zero.", True, lowest >= 0, lambda _: f"lowest: {count('piece')(lowest)}")


def play_4(stage: Stage) -> Iterator[Check]:
    """Changes out of order: per field both stand, of whole rows the newer one."""
    deployment = stage.deployment
    stage.do("Version 42 of two users arrives before version 41, and version 42 of one comes again, changed.")
    stage.serve("balance", "user")
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
    yield Check("Changes of different fields both stand: {}.", both, users["user-7"], fields)
    newer = {"name": "New", "email": "new@example.org"}
    yield Check("Of whole rows the newer one stands: {}.", newer, users["user-8"], fields)
    wanted = {"applied": 3, "stale": 1, "conflict": 1}
    yield Check(
        "Other content under the same version is listed as a conflict: {}.",
        wanted,
        dict(deployment.outcomes("users")),
        counts,
    )


def look_at_all(stage: Stage) -> Iterator[Check]:
    """What all scenarios left, beside the fold of the log."""
    deployment = stage.deployment
    stage.do("All rows, outgoing events, calls and counters are compared with what the log comes to.")
    expectation = deployment.expectation()
    complaints = deployment.complaints(deployment.tables())
    yield Check("Postgres holds what the log comes to: {}.", [], complaints, differences)
    counted = sum(number for _, _, number in read_totals(deployment.session))
    yield Check("Each record has one outcome: {}.", expectation.records, counted, count("outcome"))


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
