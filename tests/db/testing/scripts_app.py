"""Handlers that run the steps in the data of their events. Random events therefore yield random effects."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, Numeric, String, Table
from sqlalchemy.dialects.postgresql import JSONB

from sluice import (
    EVENT,
    Call,
    Delete,
    Effect,
    Emit,
    Entity,
    Event,
    Increment,
    Insert,
    Merge,
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

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
metadata = MetaData()


def columns() -> tuple[Column[Any], ...]:
    return (
        Column("id", String(6), primary_key=True),
        Column("a", String(4)),
        Column("b", Integer, nullable=False, default=7),
        Column("amount", Numeric(6, 2)),
        Column("at", DateTime(timezone=True)),
        Column("more", JSONB),
        Column("count", BigInteger, nullable=False, default=0),
    )


TABLES: dict[str, Table] = {
    "numbered": entity_table(
        "numbered", metadata, *columns(), merged=True, deletable=True, counters=("count",)
    ),
    "timed": entity_table(
        "timed", metadata, *columns(), versions="timestamp", merged=True, deletable=True, counters=("count",)
    ),
    "first": entity_table(
        "first",
        metadata,
        *columns(),
        versions="timestamp",
        equal_versions="first",
        deletable=True,
        counters=("count",),
    ),
    "plain": entity_table("plain", metadata, *columns(), counters=("count",)),
    "derived": projection_table(
        "derived", MetaData(), *columns(), merged=True, deletable=True, counters=("count",)
    ),
}
topics = (
    Topic("parking", entity=Entity("script", 2), ignores=("ignored",)),
    Topic("skipping", entity=Entity("other", 2), on_failure="skip"),
    Topic("places", entity=Entity("script", 2), dedup="position", tombstone_type="script"),
    Topic("natural", entity=Entity("script", 2), dedup="natural", ignores=("ignored",)),
    Topic("passing", entity=Entity("other", 2), dedup="natural", on_failure="skip"),
)
outgoing_topics = ("out",)


@handles("script", "script.twice")
def run_plain(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Runs the steps in data["plain"]."""
    yield from run_steps(event.data.get("plain", ()))


@handles("script.twice")
def run_again(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Runs the steps in data["again"], for the same event as `run_plain`."""
    yield from run_steps(event.data["again"])


@projects("script", "script.projected", into=TABLES["derived"], revision=1)
def derive(event: Event[dict[str, Any]]) -> Iterator[Any]:
    """Runs the steps in data["derived"]."""
    yield from run_steps(event.data.get("derived", ()))


@effect("notify", on_unknown="ask")
def notify(call: Any) -> None:
    """Declares an effect that the tests never call."""


def run_steps(steps: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    for step in steps:
        if step["do"] == "reject":
            raise Rejected("by its data")
        row = yield made(step)
        if step["do"] == "read":
            yield Emit("out", key=None, type="read", data=row)


def made(step: Mapping[str, Any]) -> Effect:
    """Returns the effect that a step names."""
    match step["do"]:
        case "emit":
            return Emit(
                "out", step["key"], "emitted", step["data"], version=step["version"], headers={"h": "1"}
            )
        case "call":
            return Call("notify", once=step["once"], args=step["data"])
    table, key = TABLES[step["table"]], step["key"]
    values = {name: read_value(value) for name, value in step.get("values", {}).items()}
    version = step.get("version")
    if version == "event":
        version = EVENT
    elif version is not None and table.name in ("timed", "first"):
        version = BEGIN + timedelta(microseconds=version)
    match step["do"]:
        case "insert":
            return Insert(table, key, values)
        case "upsert":
            return Upsert(table, key, values, version)
        case "merge":
            return Merge(table, key, values, version)
        case "delete":
            return Delete(table, key, version)
        case "read":
            return Read(table, key)
        case "increment":
            otherwise = [made(one) for one in step["otherwise"]]
            return Increment(table, key, {"count": step["delta"]}, step["floor"], otherwise)
    raise AssertionError(step)


def read_value(value: Any) -> Any:
    """Returns a value of a step. {"decimal": "1.5"} and {"at": 3} stand for a Decimal and a datetime."""
    match value:
        case {"decimal": str(text)}:
            return Decimal(text)
        case {"at": int(number)}:
            return BEGIN + timedelta(seconds=number)
        case _:
            return value
