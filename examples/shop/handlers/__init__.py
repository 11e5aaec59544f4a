"""The shop's handlers, topics and effects: the module for SLUICE_HANDLERS."""

from examples.shop.effects import capture_payment, send_email
from examples.shop.handlers.balances import set_balance
from examples.shop.handlers.billing import bill_payment
from examples.shop.handlers.captures import capture_approved
from examples.shop.handlers.orders import place_order
from examples.shop.handlers.payments import receive_payment
from examples.shop.handlers.stock import receive_stock, sell_stock
from examples.shop.handlers.users import change_user, delete_user, replace_user
from examples.shop.topics import outgoing_topics, topics

__all__ = [
    "bill_payment",
    "capture_approved",
    "capture_payment",
    "change_user",
    "delete_user",
    "outgoing_topics",
    "place_order",
    "receive_payment",
    "receive_stock",
    "replace_user",
    "sell_stock",
    "send_email",
    "set_balance",
    "topics",
]
