"""The scenarios of the shop in a World, which simulates all servers."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from examples.shop.tables import account_balances, billing_line_items, orders, stock, transactions, users
from sluice import Call, Emit, NotSent
from sluice.testing import Incoming, World, assert_order_free

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ORDER = {"customer_id": "cust-7", "email": "seven@example.org", "total_cents": 25_000}


@pytest.fixture
def shop() -> World:
    return World("examples.shop.handlers")


def balance(cents: int, minutes: int) -> Incoming:
    at = NOON + timedelta(minutes=minutes)
    return Incoming("balances", key="acc-42", type="balance.set", data={"balance_cents": cents}, time=at)


def user(kind: str, version: int, **data: Any) -> Incoming:
    return Incoming("users", key="user-7", type=kind, data=data, version=version)


def payment(shop: World, cents: int) -> str | None:
    return shop.send(
        "payments",
        key="pay-1",
        type="payment.received",
        data={"account_id": "acc-1", "amount_cents": cents},
        id="e-1",
    )


def test_a_repeated_payment_is_one_row(shop: World) -> None:
    assert [payment(shop, 500), payment(shop, 500), payment(shop, 700)] == [
        "applied",
        "duplicate",
        "conflict",
    ]
    assert shop.rows(transactions) == {"pay-1": {"account_id": "acc-1", "amount_cents": 500}}


def test_balances_have_the_same_result_in_any_order(shop: World) -> None:
    assert_order_free(shop, [balance(100, 1), balance(250, 2), balance(75, 3), balance(90, 4)])
    for event in (balance(75, 3), balance(100, 1)):
        shop.send_event(event)
    assert shop.row(account_balances, "acc-42") == {"balance_cents": 75, "as_of": NOON + timedelta(minutes=3)}


def test_changes_of_a_user_have_the_same_result_in_any_order(shop: World) -> None:
    assert_order_free(
        shop,
        [
            user("user.replaced", 1, email="old@example.org", name="Ada"),
            user("user.changed", 2, email="new@example.org"),
            user("user.changed", 3, name="Ada Lovelace"),
            user("user.deleted", 4),
            user("user.changed", 5, name="Ada again"),
        ],
    )


def test_a_sale_without_stock_is_reported_and_changes_nothing(shop: World) -> None:
    shop.given(stock, "product-42", {"on_hand": 5})
    for quantity in (3, 3):
        shop.send("stock-updates", key="product-42", type="stock.sold", data={"quantity": quantity})
    assert shop.row(stock, "product-42") == {"on_hand": 2}
    short = {"product_id": "product-42", "quantity": 3}
    assert shop.emitted == [Emit("stock-events", "product-42", "stock.short", short)]


def test_a_redelivered_order_is_emitted_once_and_its_email_is_sent_once(shop: World) -> None:
    shop.send("orders", key="order-99", type="order.placed", data=ORDER)
    shop.redeliver()
    created = {"order_id": "order-99", "total_cents": 25_000}
    assert shop.emitted == [Emit("order-events", "order-99", "order.created", created)]
    email = {"to": "seven@example.org", "template": "order-confirmation"}
    assert shop.calls == [Call("send_email", once="order-confirmation:order-99", args=email)]

    def away(call: object) -> None:
        raise NotSent("no mail server")

    assert [one.state for one in shop.run_calls({"send_email": away})] == ["pending"]
    [sent] = shop.run_calls({"send_email": lambda call: {"message_id": "<1>"}})
    assert (sent.state, sent.attempt, sent.answer) == ("succeeded", 2, {"message_id": "<1>"})
    assert shop.run_calls({"send_email": away}) == []


def test_an_order_that_cannot_be_stored_is_a_dead_letter(shop: World) -> None:
    shop.send("orders", key="order-99", type="order.placed", data=ORDER | {"customer_id": "c" * 65})
    [letter] = shop.dead_letters
    assert "orders.customer_id: text of 65 characters, the column holds 64" in letter.error
    assert shop.rows(orders) == {}
    assert shop.emitted == []
    assert shop.calls == []


def test_a_rebuild_corrects_the_wrong_tax() -> None:
    shop = World("examples.shop.before_the_fix")
    payment(shop, 11_900)
    assert shop.rows(billing_line_items)["pay-1"]["tax_cents"] == 779
    shop.restart("examples.shop.handlers")
    [(before, after)] = shop.rebuild(billing_line_items).values()
    assert before is not None
    assert after is not None
    assert (before["tax_cents"], after["tax_cents"]) == (779, 1_900)
    assert shop.calls == [], "a rebuild makes no call"


def test_the_rules_that_only_postgres_checks_are_listed(shop: World) -> None:
    assert shop.not_played == ["captures: CHECK (amount_cents > 0)", "transactions: CHECK (amount_cents > 0)"]


def test_a_tombstone_deletes_the_row_of_a_user(shop: World) -> None:
    shop.send_event(user("user.replaced", 1, email="old@example.org", name=None))
    shop.send("users", key="user-7")
    assert shop.row(users, "user-7") is None
