"""The shop's handlers, topics and effects in one place: the module that SLUICE_HANDLERS names."""

from shop.effects import capture_payment, send_email
from shop.handlers.balances import set_balance
from shop.handlers.billing import bill_payment
from shop.handlers.captures import capture_approved
from shop.handlers.orders import place_order
from shop.handlers.payments import receive_payment
from shop.handlers.stock import receive_stock, sell_stock
from shop.handlers.users import change_user, delete_user, replace_user
from shop.topics import outgoing_topics, topics

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
