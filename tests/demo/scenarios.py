"""Scenarios 1a, 1b, 2 and 4, about incoming events. Each produces events, causes faults, checks results."""

import random
from collections.abc import Iterator
from typing import Any

from examples.shop import tables
from examples.shop.generate import OutgoingRecord, event, generate
from sluice.db.admin.totals import read_totals
from tests.demo.report import Check, cents, count, counts, differences, fields
from tests.demo.stage import Stage


def play_1a(stage: Stage) -> Iterator[Check]:
    """Duplicate delivery: each payment has one row, although a worker and a bridge are killed."""
    deployment, run, sizes = stage.deployment, stage.deployment.run, stage.sizes
    payments = list(generate("payments", count=sizes.payments, seed=1))
    repeats = random.Random(1).sample(payments, sizes.sent_twice)
    stage.do("A worker is killed after its COMMIT. A bridge is killed before it stores its progress.")
    queues = deployment.queues("payment")
    doomed_worker = run.start_worker(queues, name="worker-payment", faults="apply.committed:3:kill")
    doomed_bridge = run.start_bridge(faults="bridge.before_progress:4:kill")
    deployment.produce(payments[: sizes.payments // 2])
    yield stage.wait_killed(doomed_bridge, "before it stores its progress")
    # The worker is killed at its third batch. On a slow machine, only the next bridge publishes this batch.
    run.start_bridge()
    yield stage.wait_killed(doomed_worker, "after its COMMIT")
    stage.serve("payment")
    stage.do(f"{sizes.sent_twice:,} of {sizes.payments:,} payments are sent twice.")
    deployment.produce(repeats + payments[sizes.payments // 2 :])
    stage.do("Redis is wiped while events are in flight.")
    deployment.wipe_redis()
    deployment.wait_settled()
    rows = len(deployment.rows(tables.transactions))
    yield Check("Each payment has one row: {}.", sizes.payments, rows, count("row"))
    yield Check(
        "Each payment is applied one time; each repeat is a duplicate: {}.",
        {"applied": sizes.payments, "duplicate": sizes.sent_twice},
        dict(deployment.outcomes("payments")),
        counts,
    )


def play_1b(stage: Stage) -> Iterator[Check]:
    """A late event and its repeats: the row keeps the newer balance."""
    deployment = stage.deployment
    stage.do("The balance of 10:00:05 arrives first, then the balance of 10:00:00 three times.")
    newer, older = _balance("10:00:05", 170_000, "b-2"), _balance("10:00:00", 150_000, "b-1")
    other_id = _balance("10:00:00", 150_000, "b-3")
    stage.serve("balance", "user")
    deployment.produce([newer, older, older, other_id])
    deployment.wait_settled()
    found = deployment.rows(tables.account_balances)["acc-42"]["balance_cents"]
    yield Check("The row keeps the newer balance: {}.", 170_000, found, cents)
    wanted = {"applied": 1, "stale": 2, "duplicate": 1}
    yield Check("The outcomes of the events are: {}.", wanted, dict(deployment.outcomes("balances")), counts)


def play_2(stage: Stage) -> Iterator[Check]:
    """Two workers on one queue: no update is lost, and no stock falls below its floor."""
    deployment, run, sales = stage.deployment, stage.deployment.run, stage.sizes.sales
    stage.do("Two workers consume the same queues at the same time.")
    stage.read_on()
    queues = deployment.queues("stock")
    twins = [run.start_worker(queues, name=f"worker-twin-{n}") for n in (1, 2)]
    deployment.produce([_stock("stock.received", 100), _stock("stock.sold", 3), _stock("stock.sold", 5)])
    deployment.wait_settled()
    found = deployment.rows(tables.stock)["product-42"]["on_hand"]
    yield Check("Of 100 pieces, 3 and then 5 are sold. The stock is then {}.", 92, found, count("piece"))
    stage.do(f"Two workers apply {sales:,} sales at the same time. Then one worker applies {sales:,} sales.")
    deployment.produce(generate("stock", count=sales, seed=2, keys=20))
    deployment.wait_settled()
    complaints = deployment.complaints([tables.stock])
    yield Check("After the sales by two workers, stock and log have {}.", [], complaints, differences)
    for twin in twins:
        twin.stop()
    run.start_worker(queues, name="worker-stock")
    deployment.produce(generate("stock", count=sales, seed=3, keys=20))
    deployment.wait_settled()
    complaints = deployment.complaints([tables.stock])
    yield Check("After the sales by one worker, stock and log have {}.", [], complaints, differences)
    lowest = min(row["on_hand"] for row in deployment.rows(tables.stock).values())
    yield Check("No stock is below zero.", True, lowest >= 0, lambda _: f"lowest: {count('piece')(lowest)}")


def play_4(stage: Stage) -> Iterator[Check]:
    """Changes out of order: changes of different fields are both kept. Of two whole rows, the newer is."""
    deployment = stage.deployment
    stage.do("Version 42 of two users arrives before version 41. One user gets two different versions 42.")
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
    yield Check("Changes of different fields are both kept: {}.", both, users["user-7"], fields)
    newer = {"name": "New", "email": "new@example.org"}
    yield Check("Of two whole rows, the newer row is kept: {}.", newer, users["user-8"], fields)
    wanted = {"applied": 3, "stale": 1, "conflict": 1}
    yield Check(
        "A second version 42 with other data is a conflict: {}.",
        wanted,
        dict(deployment.outcomes("users")),
        counts,
    )


def look_at_all(stage: Stage) -> Iterator[Check]:
    """Compares the data of all scenarios with the data that is computed from the log."""
    deployment = stage.deployment
    stage.do("All rows, outgoing events, calls and counters are compared with data computed from the log.")
    expectation = deployment.expectation()
    complaints = deployment.complaints(deployment.tables())
    yield Check("Postgres and the data computed from the log have {}.", [], complaints, differences)
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
