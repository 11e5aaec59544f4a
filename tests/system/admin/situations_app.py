"""An application whose handlers and effects fail when a test requests it.

A file in the working folder activates the fault of its name. Deleting the file simulates a deployment of
corrected code.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String

from sluice import (
    Call,
    Effect,
    EffectCall,
    Emit,
    Entity,
    Event,
    JsonObject,
    Refused,
    Topic,
    Upsert,
    effect,
    entity_table,
    handles,
    projection_table,
    projects,
)

metadata = MetaData()
things = entity_table(
    "situation_things",
    metadata,
    Column("thing_id", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
)
totals = projection_table(
    "situation_totals",
    metadata,
    Column("thing_id", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

topics = (Topic("things", entity=Entity("thing", shards=2)),)


def is_wrong(what: str) -> bool:
    return Path(what).exists()


@handles("thing.set")
def set_thing(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields a row, unless an active fault concerns the event."""
    if event.data.get("crashes") and is_wrong("crashing"):
        os._exit(7)
    if is_wrong("dying"):
        raise ValueError("the handler is wrong")
    yield Upsert(things, event.key, {"number": event.data["number"]}, version=event.version)
    if topic := event.data.get("emit"):
        yield Emit(topic, event.key, "thing.told", {})
    if event.data.get("tell"):
        yield Call("tell", args={"number": event.data["number"]})


@projects("thing.set", into=totals, revision=1)
def project_thing(event: Event[dict[str, Any]]) -> Iterator[Upsert]:
    yield Upsert(totals, event.key, {"number": event.data["number"]}, version=event.version)


@effect("tell", on_unknown="ask", holds=True)
def tell(_: EffectCall) -> JsonObject | None:
    """Answers the call, unless the fault `refusing` is active."""
    if is_wrong("refusing"):
        raise Refused("the provider says no")
    return None
