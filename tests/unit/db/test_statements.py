"""A connection prepares each statement under the name of the statement, so each name must be unique."""

import importlib
import pkgutil
from collections import defaultdict

import sluice.db
from sluice.db.connection import Statement


def test_every_statement_has_a_unique_name_that_postgres_does_not_shorten() -> None:
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for found in pkgutil.walk_packages(sluice.db.__path__, "sluice.db."):
        if ".migrations." in found.name:
            continue  # only Alembic runs migrations
        for thing in vars(importlib.import_module(found.name)).values():
            if isinstance(thing, Statement):
                texts[thing.name].add(thing.text)
    assert len(texts) > 100
    assert {name: both for name, both in texts.items() if len(both) > 1} == {}
    assert [name for name in texts if len(name.encode()) > 63] == []
