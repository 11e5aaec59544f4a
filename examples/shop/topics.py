"""The shop's topics, and the entity types of their keys."""

from sluice import Entity, Topic

payment = Entity("payment")
balance = Entity("balance")
stock = Entity("stock")
order = Entity("order")
user = Entity("user")

topics = (
    Topic("payments", entity=payment),
    # The entity of this topic is also the payment, so that a payment and its capture are in one
    # queue and are applied one after the other.
    Topic("captures", entity=payment),
    Topic("balances", entity=balance),
    Topic("stock-updates", entity=stock),
    Topic("orders", entity=order, ignores=("order.viewed",)),
    Topic("users", entity=user),
)

# The topics of outgoing events.
outgoing_topics = ("order-events", "stock-events")
