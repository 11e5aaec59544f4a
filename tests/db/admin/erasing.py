"""An entity to erase, rows that may contain its key, and a search for the key in every column."""

import json
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, String

from sluice.admin.erase import Erased, erase
from sluice.admin.erased_logs import LogEnds
from sluice.db.admin.audit import Decision
from sluice.db.tables import entity_table
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Call, Delete, Effect, Event, Increment, Upsert, handles
from sluice.tasks.fold.registry import Registry, collect_modules
from tests.db.tasks import applying, projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, Thing, made, notify
from tests.db.tasks.projecting import Bench, create
from tests.harness.raw_sql import make_engine

KEY = "ann-4711"
DECISION = Decision("operator", "erase", f"request of {KEY}")


marks = MetaData()
moods = entity_table(
    "moods", marks, Column("mood_id", String(300), primary_key=True), Column("said", String), deletable=True
)
sums = entity_table(
    "sums",
    marks,
    Column("sum_id", String(300), primary_key=True),
    Column("n", BigInteger, nullable=False, default=0),
    counters=("n",),
)


@handles("thing.set")
def mail(event: Event[Thing]) -> Iterator[Effect]:
    """Yields a call that is made only one time, and a row whose key is not the key of the event."""
    yield Call("notify", once=f"mail:{event.key}", args={"to": event.key})
    yield Increment(sums, "all", {"n": 1})


@handles("mood.set")
def set_mood(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields a row that `drop_mood` can delete."""
    yield Upsert(moods, event.key, {"said": f"{event.key} said {event.id}"})


@handles("mood.gone")
def drop_mood(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields the deletion of the row that `set_mood` wrote."""
    yield Delete(moods, event.key)


def registry(revision: int = 1, *, mended: bool = False) -> Registry:
    """Returns the application with a projection, two more tables and more handlers."""
    code = projecting.registry(revision, mended=mended)
    module = ModuleType("erasing")
    vars(module).update(mail=mail, set_mood=set_mood, drop_mood=drop_mood, notify=notify, moods=moods)
    module.topics = tuple(code.topics.values())  # type: ignore[attr-defined]
    more = collect_modules([module])
    for kind, entries in more.handlers.items():
        code.handlers[kind] = (*code.handlers.get(kind, ()), *entries)
    code.metadatas = [*code.metadatas, marks]
    code.tables.update(applying.registry().tables | more.tables)
    return code


def erase_key(bench: Bench, key: str = KEY, *, until: int | None = None, **more: Any) -> Erased:
    """Erases a thing. The log in Kafka ends at offset `until`; by default, behind the last record."""
    end = until if until is not None else max((record.offset for record in bench.log), default=-1) + 1

    def read_ends(topics: Sequence[str]) -> LogEnds:
        return {TOPIC: (TOPIC_ID, {0: end})}

    options = {"patience_seconds": 0.0, **more}
    return erase(bench.looking, bench.registry, read_ends, "thing", key, DECISION, **options)


def sent(bench: Bench) -> None:
    """Changes the database as a run of the relay and of the effects worker would."""
    bench.look("DELETE FROM sluice.outbox_events")
    bench.look(
        "UPDATE sluice.executed_side_effects SET state = 'succeeded', settled_at = now(),"
        " response = jsonb_build_object('for', entity_key) WHERE state = 'pending'"
    )


def mentions(bench: Bench, key: str = KEY) -> list[str]:
    """Returns each column of each table that contains the key as text, JSON or bytes."""
    columns = bench.look(
        "SELECT table_schema, table_name, column_name FROM information_schema.columns"
        " WHERE table_schema IN (%s, 'public') ORDER BY 1, 2, ordinal_position",
        (bench.looking.schema,),
    )
    patterns = (key, json.dumps(key)[1:-1], key.encode().hex())
    found = []
    for schema, table, column in columns:
        where = " OR ".join(f"strpos(\"{column}\"::text, '{one}') > 0" for one in patterns)
        ((count,),) = bench.look(f'SELECT count(*) FROM {schema}."{table}" WHERE {where}')
        if count:
            found.append(f"{schema}.{table}.{column}: {count}")
    return found


def of(key: str, offset: int, **more: Any) -> Record:
    """Returns a `thing.set` record of a key. Its event id and amount follow from the offset."""
    return made(offset, "thing.set", key, event_id=f"{key}:{offset}", amount=offset, **more)


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create(database_url)
    engine = make_engine(database_url, connect_args={"options": "-c search_path=public"})
    marks.create_all(engine)
    engine.dispose()
    made_bench = Bench(database_url, registry())
    yield made_bench
    made_bench.close()
