"""The effects that each handler of the shop yields."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import UNSET

from examples.shop import handlers
from examples.shop.generate import KINDS, generate
from examples.shop.handlers import balances, captures, orders, payments, stock, users
from examples.shop.tables import account_balances, transactions
from examples.shop.tables import captures as captures_table
from examples.shop.tables import orders as orders_table
from examples.shop.tables import stock as stock_table
from examples.shop.tables import users as users_table
from sluice.tasks.api import Call, Delete, Effect, Emit, Event, Increment, Insert, Merge, Rejected, Upsert
from sluice.tasks.events.decode import DecodeError, convert_data
from sluice.tasks.fold.registry import collect_modules

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def event(key: str, data: Any, version: int | None = None, time: datetime | None = NOON) -> Event[Any]:
    return Event("e1", "any", key, version, time, data, "any", 0, 0)


CASES: list[tuple[str, Callable[[Event[Any]], Iterator[Effect]], Event[Any], list[Effect]]] = [
    (
        "payment.received",
        payments.receive_payment,
        event("pay-1", payments.PaymentReceived("acc-1", 500)),
        [Insert(transactions, "pay-1", {"account_id": "acc-1", "amount_cents": 500})],
    ),
    (
        "payment.approved",
        captures.capture_approved,
        event("pay-1", captures.PaymentApproved(500)),
        [
            Insert(captures_table, "pay-1", {"amount_cents": 500}),
            Call("capture_payment", once="pay-1", args={"reference": "pay-1", "amount_cents": 500}),
        ],
    ),
    (
        "balance.set",
        balances.set_balance,
        event("acc-42", balances.BalanceSet(150_000)),
        [Upsert(account_balances, "acc-42", {"balance_cents": 150_000, "as_of": NOON}, NOON)],
    ),
    (
        "stock.received",
        stock.receive_stock,
        event("product-42", stock.Quantity(100)),
        [Increment(stock_table, "product-42", {"on_hand": 100})],
    ),
    (
        "stock.sold",
        stock.sell_stock,
        event("product-42", stock.Quantity(3)),
        [
            Increment(
                stock_table,
                "product-42",
                {"on_hand": -3},
                floor=0,
                otherwise=(
                    Emit(
                        "stock-events",
                        key="product-42",
                        type="stock.short",
                        data={"product_id": "product-42", "quantity": 3},
                    ),
                ),
            )
        ],
    ),
    (
        "order.placed",
        orders.place_order,
        event("order-99", orders.OrderPlaced("cust-7", "seven@example.org", 25_000)),
        [
            Insert(
                orders_table, "order-99", {"customer_id": "cust-7", "total_cents": 25_000, "status": "PLACED"}
            ),
            Emit(
                "order-events",
                key="order-99",
                type="order.created",
                data={"order_id": "order-99", "total_cents": 25_000},
            ),
            Call(
                "send_email",
                once="order-confirmation:order-99",
                args={"to": "seven@example.org", "template": "order-confirmation"},
            ),
        ],
    ),
    (
        "user.changed",
        users.change_user,
        event("user-7", users.UserChanged(email="new@example.org"), 41),
        [Merge(users_table, "user-7", {"email": "new@example.org"})],
    ),
    (
        "user.replaced",
        users.replace_user,
        event("user-7", users.UserReplaced("new@example.org", None), 42),
        [Upsert(users_table, "user-7", {"email": "new@example.org", "name": None})],
    ),
    ("user.deleted", users.delete_user, event("user-7", {}, 43), [Delete(users_table, "user-7", 43)]),
    (
        "user.deleted, a tombstone",
        users.delete_user,
        event("user-7", {}),
        [Delete(users_table, "user-7", None)],
    ),
]


@pytest.mark.parametrize(("handler", "given", "effects"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_handler_yields_its_effects(
    handler: Callable[[Event[Any]], Iterator[Effect]], given: Event[Any], effects: list[Effect]
) -> None:
    assert list(handler(given)) == effects


def test_a_balance_without_a_time_is_rejected() -> None:
    with pytest.raises(Rejected, match="time of its event"):
        list(balances.set_balance(event("acc-42", balances.BalanceSet(1), time=None)))


def test_every_collected_handler_has_a_case() -> None:
    registry = collect_modules([handlers])
    tried = {kind.partition(",")[0] for kind, *_ in CASES}
    assert tried == set(registry.handlers)
    assert set(registry.effects) == {"capture_payment", "send_email"}


def test_generated_records_are_for_declared_topics_and_the_same_for_a_seed() -> None:
    topics = collect_modules([handlers]).topics
    for kind in KINDS:
        records = list(generate(kind, count=20, seed=1, keys=5))
        assert records == list(generate(kind, count=20, seed=1, keys=5))
        assert records != list(generate(kind, count=20, seed=2, keys=5))
        assert {record.topic for record in records} <= topics.keys()


def test_a_field_that_did_not_change_is_unset() -> None:
    assert convert_data({"name": "Ada"}, users.UserChanged) == users.UserChanged(UNSET, "Ada")
    with pytest.raises(DecodeError, match="invalid data"):
        convert_data({"email": 1}, users.UserChanged)
