"""A registry with handlers of one event type, and a fold that runs them on an empty state."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from sqlalchemy import JSON, Column, Integer, MetaData, String

from sluice.db.tables import entity_table
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import MARK, Entity, Event, Topic, effect
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import FoldResult, FoldState
from sluice.tasks.fold.plan import plan_event
from sluice.tasks.fold.registry import EffectEntry, HandlerEntry, Registry
from sluice.tasks.fold.versioned_row import ABSENT

things = entity_table(
    "things", MetaData(), Column("id", String, primary_key=True), Column("n", Integer), Column("more", JSON),
    Column("count", Integer, nullable=False, default=0), counters=("count",),
)  # fmt: skip
DATA = {"n": 1, "flat": {"a": 1}, "deep": [{"b": [1]}]}


def app(*functions: Callable[[Event[Any]], Iterator[Any]], data_type: Any = Any) -> Registry:
    """Builds a registry directly from handlers of one type, because collecting is slower than running."""
    registry = Registry()
    registry.topics["things"] = Topic("things", entity=Entity("thing"))
    registry.tables["things"] = things
    registry.effects["notify"] = EffectEntry(getattr(notify, MARK)[0], notify)
    registry.handlers["thing"] = tuple(
        HandlerEntry(str(number), ("thing",), function, data_type, None, registry.effects, registry.tables)
        for number, function in enumerate(functions)
    )
    return registry


def run(registry: Registry, *values: Any, memory: FoldState | None = None) -> FoldResult:
    """Folds one event per value, by default on an empty state."""
    topic, planned = registry.topics["things"], []
    for offset, data in enumerate(values or (DATA,)):
        value = {"event_id": f"e{offset}", "type": "thing", "version": offset, "data": data}
        record = Record(offset, 0, b"k%d" % offset, msgspec.json.encode(value), [])
        planned.append(plan_event(registry, topic, decode(topic, "id", 0, record)))
    return fold(planned, memory or FoldState(lambda _table, _key: ABSENT, lambda _key: None))


def sent(result: FoldResult) -> list[Any]:
    return [msgspec.json.decode(emit.payload) for emit in result.emits]


@effect("notify", on_unknown="ask")
def notify(call: Any) -> None: ...
