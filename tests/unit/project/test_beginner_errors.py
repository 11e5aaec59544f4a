"""Errors that a beginner meets. Each error names the failure, its reason and what to write or run."""

import os
import socket
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from typer.testing import CliRunner

from sluice.cli.main import app
from sluice.kafka_io.record_types import Record
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.plan import plan_event
from sluice.tasks.fold.registry import HandlersRefused, Registry, collect_modules

SERVERS = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://app@127.0.0.1:1/app",
    "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
}
BEFORE = """
from collections.abc import Iterator
import msgspec
from sqlalchemy import BigInteger, Column, MetaData, Text
from sluice import Effect, Entity, Event, Insert, JsonObject, Topic, entity_table, handles

topics = (Topic("orders", entity=Entity("order")),)
orders = entity_table(
    "orders", MetaData(), Column("id", Text, primary_key=True), Column("total", BigInteger, nullable=False)
)

class OrderPlaced(msgspec.Struct):
    total: int

class PlainOrder:
    total: int

"""
HANDLER = """
@handles("order.placed")
def place_order(event: Event[OrderPlaced]) -> Iterator[Effect]:
    yield Insert(orders, event.key, {"total": event.data.total})
"""
LAST_LINE = len((BEFORE + HANDLER).splitlines())
EVENT = b'{"event_id": "e-1", "type": "order.placed", "data": {"total": 250}}'


def collected(text: str) -> Registry:
    module = ModuleType("shop.handlers")
    exec(BEFORE + text, vars(module))
    return collect_modules([module])


def refused(text: str) -> str:
    """Returns the error of a process that collects these handlers."""
    with pytest.raises(HandlersRefused) as caught:
        collected(text)
    return str(caught.value)


def dead(value: bytes, key: bytes | None = b"o-1") -> str:
    """Returns the error text of the event's dead letter."""
    registry = collected(HANDLER)
    topic = registry.topics["orders"]
    planned = plan_event(registry, topic, decode(topic, "id", 0, Record(0, 0, key, value, [])))
    assert planned.error is not None or planned.runs
    fault = planned.error or next(run.error for run in planned.runs if run.error)
    return str(fault)


def broken_module(text: str) -> str:
    """Returns what a command reports about a module with this text, with FOLDER for its folder."""
    with TemporaryDirectory() as folder, chdir(folder):
        Path("broken_handlers.py").write_text(text)
        try:
            return printed("init", **SERVERS, SLUICE_HANDLERS="broken_handlers").replace(folder, "FOLDER")
        finally:
            sys.path.remove(folder)


def printed(*words: str, **environ: str) -> str:
    """Runs a command that fails. Returns its output."""
    result = CliRunner().invoke(app, words, env=environ)
    assert result.exit_code == 2
    return result.output.strip()


def port_in_use(start: Callable[[int], str]) -> str:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        return start(port).replace(str(port), "PORT")


def metrics_of_bridge(port: int) -> str:
    handlers = "examples.shop.handlers"
    return printed("bridge", **SERVERS, SLUICE_HANDLERS=handlers, SLUICE_METRICS_PORT=str(port))


TABLE: dict[str, tuple[Callable[[], str], str]] = {
    "a handler without yield": (
        lambda: refused(
            '@handles("order.placed")\ndef place_order(event: Event[OrderPlaced]):\n'
            "    return Insert(orders, event.key, {})"
        ),
        "handler shop.handlers.place_order contains no yield; yield each effect, as in `yield Upsert(orders,"
        " event.key, {...})`, instead of calling or returning it",
    ),
    "a handler that takes the data": (
        lambda: refused(
            '@handles("order.placed")\ndef place_order(order: OrderPlaced):\n'
            '    yield Insert(orders, "k", {})'
        ),
        "shop.handlers.place_order: its parameter order is annotated as OrderPlaced; a handler takes the"
        " whole event: write `order: Event[OrderPlaced]`",
    ),
    "a payload type that JSON cannot fill": (
        lambda: refused(HANDLER.replace("Event[OrderPlaced]", "Event[PlainOrder]")),
        "shop.handlers.place_order: Event[PlainOrder] can hold no data: the data of an event is a JSON"
        " object; declare the data as a msgspec.Struct, a dataclass or a TypedDict, or accept any object:"
        " Event[JsonObject]",
    ),
    "a topic without handlers": (
        lambda: refused(""),
        "topic orders has no handler, so all its events would become dead letters; write one with"
        " @handles(…) in shop.handlers, or add the module of its handler to SLUICE_HANDLERS",
    ),
    "an event type without handler": (
        lambda: dead(EVENT.replace(b"placed", b"shipped")),
        "NoHandler: no handler for type 'order.shipped' of topic orders, which does not ignore it; write a"
        " handler with @handles('order.shipped'), or declare Topic('orders', …, ignores=('order.shipped',))",
    ),
    "data of another type": (
        lambda: dead(EVENT.replace(b"250", b'"250"')),
        "DecodeError: invalid data for OrderPlaced: Expected `int`, got `str` - at `$.total`",
    ),
    "data without a field": (
        lambda: dead(EVENT.replace(b'"total": 250', b"")),
        "DecodeError: invalid data for OrderPlaced: Object missing required field `total`",
    ),
    "an event without key": (
        lambda: dead(EVENT, key=None),
        f"EffectRefused: <string>:{LAST_LINE}: Insert of orders without a key: the record's key is null or"
        " unreadable; in the producer, set the key to the text that names the entity",
    ),
    "an event without id": (
        lambda: dead(EVENT.replace(b'"event_id": "e-1", ', b"")),
        "EventIdMissing: the event has no id, so a repeat of it would count as another event; in the"
        " producer, set an id ('event_id' in plain JSON, the header ce_id or the field id of CloudEvents), or"
        " declare Topic('orders', dedup=\"position\") if every record counts, even a repeated one",
    ),
    "no settings": (
        lambda: printed("status"),
        "sluice: SLUICE_DATABASE_URL: required, but not set; SLUICE_REDIS_URL: required, but not set;"
        " SLUICE_KAFKA_BOOTSTRAP_SERVERS: required, but not set. Set what is missing, or run: eval"
        ' "$(sluice stack up)" (in a project of `sluice new DIR`: make shell)',
    ),
    "no handlers": (
        lambda: printed("init", **SERVERS),
        "sluice: SLUICE_HANDLERS is empty; set it to the modules of your handlers, separated by commas, as"
        " in SLUICE_HANDLERS=myapp.handlers (a project of `sluice new DIR` sets it: run make dev or make"
        " shell)",
    ),
    "a missing module": (
        lambda: printed("init", **SERVERS, SLUICE_HANDLERS="myapp.handler"),
        "sluice: SLUICE_HANDLERS: module myapp.handler cannot be imported: No module named 'myapp'; modules"
        " are"
        f" looked up in the current folder {os.getcwd()} and in PYTHONPATH",
    ),
    "a syntax error in the handlers": (
        lambda: broken_module("def place(event):\n    yield (\n"),
        "sluice: SLUICE_HANDLERS: module broken_handlers cannot be imported: SyntaxError: '(' was never"
        " closed (FOLDER/broken_handlers.py, line 2)",
    ),
    "an exception in the handlers": (
        lambda: broken_module("import json\n\njson.loads('{')\n"),
        "sluice: SLUICE_HANDLERS: module broken_handlers cannot be imported: JSONDecodeError: Expecting"
        " property name enclosed in double quotes: line 1 column 2 (char 1) (FOLDER/broken_handlers.py, line"
        " 3)",
    ),
    "the local servers do not run": (
        lambda: printed("workers", **SERVERS),
        "sluice: Postgres (SLUICE_DATABASE_URL): cannot connect to 127.0.0.1:1 (database app, user app):"
        ' Connection refused; start it, or run: eval "$(sluice stack up)" (in a project of `sluice new DIR`:'
        " make dev)",
    ),
    "a port of metrics in use": (
        lambda: port_in_use(metrics_of_bridge),
        "bridge: SLUICE_METRICS_PORT: cannot serve metrics on 127.0.0.1:PORT: Address already in use. Each"
        " process on one machine needs a port of its own: set another one, or 0 for none.",
    ),
    "the port of Flower in use": (
        lambda: port_in_use(lambda port: printed("flower", "--port", str(port), **SERVERS)),
        "sluice: Flower cannot listen on 127.0.0.1:PORT: Address already in use; pass another --port",
    ),
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("mistake", TABLE)
def test_each_mistake_has_exactly_the_expected_error(mistake: str) -> None:
    make, expected = TABLE[mistake]
    assert make() == expected
