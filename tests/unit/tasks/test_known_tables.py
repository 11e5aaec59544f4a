"""Sluice finds the tables that the modules of the handlers keep, but no table that is made later."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String, Table

from sluice.db.tables import entity_table
from sluice.tasks.api import EffectRefused, Entity, Event, Topic
from sluice.tasks.fold.handler_steps import iter_effects
from sluice.tasks.fold.registry import HandlersRefused, Registry, collect_handlers, collect_modules

TABLES = """
from types import SimpleNamespace
from sqlalchemy import Column, MetaData, String
from sluice.tables import entity_table, projection_table

def made(name, function=entity_table):
    return function(name, MetaData(), Column("id", String(64), primary_key=True))
"""
UNHANDLED = (Topic("things", entity=Entity("thing"), ignores=("thing.set",)),)
HANDLERS = """
from collections.abc import Iterator
from sluice import EVENT, Effect, Entity, Event, Insert, Topic, handles

topics = (Topic("kept", entity=Entity("kept")),)

def keep(table):
    @handles("kept")
    def handler(event: Event[dict]) -> Iterator[Effect]:
        yield Insert(table() if callable(table) else table, event.key, {})
    return handler
"""
# Ways in which the module of the handlers, or a module that it imports, keeps the table `found`.
KEPT = {
    "an attribute of its module": "found = made('found')\nhandler = keep(lambda: found)",
    "a dict": "ALL = {'x': made('found')}\nhandler = keep(lambda: ALL['x'])",
    "a dict of lists": "ALL = {'x': [(made('found'),)]}\nhandler = keep(lambda: ALL['x'][0][0])",
    "an object": "ALL = SimpleNamespace(x=made('found'))\nhandler = keep(lambda: ALL.x)",
    "a class": "class All:\n    x = made('found')\nhandler = keep(lambda: All.x)",
    "a closure": "handler = keep(made('found'))",
    "a default": "def find(table=made('found')):\n    return table\nhandler = keep(find)",
    "only its MetaData": (
        "metadata = made('found').metadata\nhandler = keep(lambda: metadata.tables['found'])"
    ),
    "a private name": "__found = made('found')\nhandler = keep(lambda: globals()['__found'])",
    "a projection without handlers": "ALL = [made('found', projection_table)]\nhandler = keep(None)",
}
IMPORTED = {
    "a module whose table is imported": "from {tables} import found\nhandler = keep(lambda: found)",
    "a module that is imported": "import {tables}\nhandler = keep(lambda: {tables}.found)",
    "a module from which a class is imported": "from {tables} import All\nhandler = keep(lambda: All.x)",
    "a module from which a function is imported": "from {tables} import find\nhandler = keep(find)",
    "a module from which a dict is imported": "from {tables} import ALL\nhandler = keep(lambda: ALL['x'])",
    "a module from which nothing is kept": (
        "import {tables} as imported\ndel imported\n"
        "def find():\n    import {tables}\n    return {tables}.found\nhandler = keep(find)"
    ),
    "a module that is found by its name": (
        "import importlib\nimportlib.import_module('{tables}')\nhandler = keep(None)"
    ),
}
SEVERAL = (
    "found = made('found')\nclass All:\n    x = found\nALL = {'x': found}\ndef find():\n    return found\n"
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns a function that writes a module, which can be imported until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write_module(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)
        return name

    yield write_module
    for name in names:
        sys.modules.pop(name, None)


def names(registry: Registry) -> list[str]:
    return sorted(registry.tables)


@pytest.mark.parametrize("place", KEPT)
def test_a_table_is_found_wherever_the_module_keeps_it(place: str, write: Any) -> None:
    registry = collect_handlers(write("kept_handlers", f"{TABLES}{HANDLERS}{KEPT[place]}\n"))
    assert names(registry) == ["found"]
    [metadata] = registry.metadatas
    assert list(metadata.tables) == ["found"]


@pytest.mark.parametrize("place", IMPORTED)
@pytest.mark.parametrize("is_imported_before", [False, True])
def test_a_table_of_an_imported_module_is_found(place: str, is_imported_before: bool, write: Any) -> None:
    write("kept_tables", f"{TABLES}{SEVERAL}")
    handlers = write("kept_handlers", f"{HANDLERS}{IMPORTED[place].format(tables='kept_tables')}\n")
    if is_imported_before and "nothing" not in place and "by its name" not in place:
        __import__("kept_tables")
    assert names(collect_handlers(handlers)) == ["found"]


def test_if_a_metadata_object_is_found_all_its_tables_are_found(write: Any) -> None:
    more = "metadata = MetaData()\nfor name in ('a', 'b'):\n    entity_table(name, metadata, Column('id', "
    text = f"{TABLES}{HANDLERS}{more}String, primary_key=True))\nhandler = keep(metadata.tables['a'])\n"
    assert names(collect_handlers(write("kept_handlers", text))) == ["a", "b"]


def test_a_table_that_is_made_after_the_start_is_refused_when_a_handler_yields_it(write: Any) -> None:
    text = f"{TABLES}{HANDLERS}kept = made('kept')\nhandler = keep(lambda: made('late'))\n"
    registry = collect_handlers(write("kept_handlers", text))
    assert names(registry) == ["kept"]
    [entry] = registry.handlers["kept"]
    event: Event[Any] = Event("1", "kept", "k", 1, None, {}, "kept", 0, 0)
    with pytest.raises(EffectRefused, match="Insert of late, a table that was made after the start"):
        list(iter_effects(entry, event))


def test_tables_of_another_application_in_the_process_are_not_found(write: Any) -> None:
    other = write("other_handlers", f"{TABLES}{HANDLERS}other = made('found')\nhandler = keep(other)\n")
    mine = write("kept_handlers", f"{TABLES}{HANDLERS}mine = made('found')\nhandler = keep(mine)\n")
    kept = collect_handlers(other), collect_handlers(mine)
    assert [registry.tables["found"] for registry in kept] == [
        sys.modules[other].other,
        sys.modules[mine].mine,
    ]


def test_a_table_without_a_reference_is_not_found(write: Any) -> None:
    text = f"{TABLES}{HANDLERS}for _ in range(2):\n    made('found')\nhandler = keep(None)\n"
    assert names(collect_handlers(write("kept_handlers", text))) == []


def test_two_tables_of_one_name_are_refused_with_file_and_line(write: Any) -> None:
    text = f"{TABLES}{HANDLERS}one = made('found')\nhandler = keep(made('found'))\n"
    with pytest.raises(
        HandlersRefused, match=r"two tables are called found \(made in .*kept_handlers\.py:7 "
    ):
        collect_handlers(write("kept_handlers", text))


def test_the_error_about_a_table_names_its_module(write: Any) -> None:
    text = f"{TABLES}{HANDLERS}made('a.b')\n"
    with pytest.raises(HandlersRefused, match=r"module kept_handlers: table 'a\.b': its name"):
        collect_handlers(write("kept_handlers", text))


def test_a_table_with_the_name_of_a_generation_table_is_refused(write: Any) -> None:
    text = f"{TABLES}{HANDLERS}kept = [made('p', projection_table), made('p_g1')]\n"
    with pytest.raises(HandlersRefused, match="name p_g1, used for table p_g1, is reserved"):
        collect_handlers(write("kept_handlers", f"{text}handler = keep(None)\n"))


def test_a_copy_or_a_plain_table_of_the_same_name_is_ignored() -> None:
    table = entity_table("copied", MetaData(), Column("id", String(64), primary_key=True))
    copy, plain = table.to_metadata(MetaData()), Table("copied", MetaData(), Column("id", String(64)))
    module = ModuleType("made_up")
    vars(module).update(topics=UNHANDLED, copy=copy, plain=plain, table=table)
    assert collect_modules([module]).tables["copied"] is table
