"""The shop's topics and the entities their keys name."""

from sluice import Entity, Topic

payment = Entity("payment")
balance = Entity("balance")
stock = Entity("stock")
order = Entity("order")
user = Entity("user")

topics = (
    Topic("payments", entity=payment),
    # Also keyed by payment: so a payment and its capture share a queue, and are applied one at a time.
    Topic("captures", entity=payment),
    Topic("balances", entity=balance),
    Topic("stock-updates", entity=stock),
    Topic("orders", entity=order, ignores=("order.viewed",)),
    Topic("users", entity=user),
)

# What the handlers emit to.
outgoing_topics = ("order-events", "stock-events")
