"""A statement's name is prepared once per connection: two statements of one name would be one of them."""

import importlib
import pkgutil
from collections import defaultdict

import sluice.db
from sluice.db.connection import Statement


def test_every_statement_has_a_name_of_its_own_that_postgres_keeps_whole() -> None:
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for found in pkgutil.walk_packages(sluice.db.__path__, "sluice.db."):
        if ".migrations." in found.name:
            continue  # run by Alembic alone
        for thing in vars(importlib.import_module(found.name)).values():
            if isinstance(thing, Statement):
                texts[thing.name].add(thing.text)
    assert len(texts) > 100
    assert {name: both for name, both in texts.items() if len(both) > 1} == {}
    assert [name for name in texts if len(name.encode()) > 63] == []
