"""Handlers with typical faults that depend on the order of events, and correct handlers."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, MetaData, Numeric, String

from sluice import (
    Call,
    Delete,
    Effect,
    EffectCall,
    Emit,
    Entity,
    Event,
    Increment,
    Insert,
    Merge,
    ProjectionEffect,
    Read,
    Rejected,
    Topic,
    Upsert,
    effect,
    entity_table,
    handles,
    projection_table,
    projects,
)

metadata = MetaData()
orders = entity_table(
    "orders",
    metadata,
    Column("order_id", String(16), primary_key=True),
    Column("status", String(8), CheckConstraint("status <> ''", name="status_given"), nullable=False),
    Column("price", Numeric(6, 2), nullable=False, default=0),
    Column("note", String(8), unique=True),
    Column("parent_id", String(16), ForeignKey("orders.order_id")),
    Column("seen", BigInteger, nullable=False, default=0),
    merged=False,
    deletable=True,
    counters=("seen",),
)
profiles = entity_table(
    "profiles",
    metadata,
    Column("profile_id", String(16), primary_key=True),
    Column("name", String(8)),
    Column("city", String(8)),
    merged=True,
)
totals = projection_table(
    "totals", MetaData(), Column("order_id", String(16), primary_key=True), Column("amount", BigInteger)
)
topics = (
    Topic("orders", entity=Entity("order"), ignores=("order.ignored",)),
    Topic("profiles", entity=Entity("profile"), on_failure="skip"),
)
memory: list[str] = []


def whole(event: Event[dict[str, Any]]) -> dict[str, Any]:
    return {"status": "NEW", "price": 0, "note": None, "parent_id": None} | event.data


@handles("order.set")
def set_order(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Writes by version: correct in any order."""
    yield Upsert(orders, event.key, whole(event))


@handles("order.placed")
def place_order(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Inserts a row, emits an event and makes a call."""
    yield Insert(orders, event.key, {"status": "PLACED"} | event.data)
    yield Emit("order-events", key=event.key, type="order.created", data={"id": event.key}, version=3)
    yield Call("notify", once=f"{event.key}", args={"id": event.key})


@handles("order.deleted")
def delete_order(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Deletes the row of a tombstone."""
    yield Delete(orders, event.key, version=event.version)


@handles("order.unversioned")
def set_unversioned(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Has a fault: the last event to arrive wins."""
    yield Upsert(orders, event.key, whole(event), version=None)


@handles("order.partial")
def set_part(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Has a fault that Sluice refuses: an Upsert without all columns."""
    yield Upsert(orders, event.key, {"status": "NEW"})


@handles("order.counted")
def count_by_hand(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Has a fault: reads, adds and writes instead of an Increment."""
    row = yield Read(orders, event.key)
    price = (0 if row is None else row["price"]) + event.data["price"]
    yield Upsert(orders, event.key, whole(event) | {"price": price})


@handles("order.seen")
def count_seen(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Counts correctly, by an Increment."""
    yield Increment(orders, event.key, {"seen": event.data["seen"]})


@handles("order.told")
def tell_after_write(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Has a fault: emits only if no newer event arrived before."""
    yield Upsert(orders, event.key, whole(event))
    yield Emit("order-events", key=event.key, type="order.changed", data={"version": event.version})


@handles("order.billed")
def call_if_absent(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Has a fault: the first event to arrive determines the args of the call."""
    yield Call("notify", once=f"bill:{event.key}", args=event.data)


@handles("order.remembered")
def remember(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Has a fault: the result depends on the events that this process handled before."""
    memory.append(str(event.key))
    yield Increment(orders, event.key, {"seen": len(memory)})


@handles("order.rejected")
def reject(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Always fails."""
    yield from ()
    raise Rejected("never")


@handles("profile.changed")
def change_profile(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Writes each field by its version: correct in any order."""
    yield Merge(profiles, event.key, event.data)


@projects("order.placed", "order.seen", into=totals, revision=1)
def total(event: Event[dict[str, Any]]) -> Iterator[ProjectionEffect]:
    """Fails for amounts over 100."""
    amount = event.data.get("seen", 1)
    if amount > 100:
        raise Rejected("too much")
    yield Upsert(totals, event.key, {"amount": amount})


@effect("notify", on_unknown="ask")
def notify(call: EffectCall) -> dict[str, Any]:
    return {"key": call.key}
