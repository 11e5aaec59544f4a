"""A statement's name is prepared once per connection: two statements of one name would be one of them."""

import importlib
import pkgutil
from collections import defaultdict

import db
from db.session import Statement


def test_every_statement_has_a_name_of_its_own_that_postgres_keeps_whole() -> None:
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for found in pkgutil.iter_modules(db.__path__, "db."):
        for thing in vars(importlib.import_module(found.name)).values():
            if isinstance(thing, Statement):
                texts[thing.name].add(thing.text)
    assert len(texts) > 100
    assert {name: both for name, both in texts.items() if len(both) > 1} == {}
    assert [name for name in texts if len(name.encode()) > 63] == []
