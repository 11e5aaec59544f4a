"""Events whose handler fails until the test corrects the handler, and queries of their dead letters."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Effect, Event, Upsert
from tests.db.tasks.applying import Bench, made, things


def broken(offset: int, key: str = "k", amount: int = 1) -> Record:
    """Returns an event whose handler fails until the test calls `mend`."""
    return made(offset, "thing.broken", key, amount=amount)


def hang(bench: Bench) -> None:
    """Deploys a handler that never ends."""

    def sleep(event: Event[Any]) -> Iterator[Effect]:
        time.sleep(1000)
        yield Upsert(things, event.key, {"amount": 1, "name": None})

    [entry] = bench.registry.handlers["thing.broken"]
    bench.registry.handlers["thing.broken"] = (replace(entry, function=sleep),)


def mend(bench: Bench) -> None:
    """Deploys a handler that works."""
    bench.registry.handlers["thing.broken"] = bench.registry.handlers["thing.set"]


def states(bench: Bench) -> list[tuple[object, ...]]:
    return bench.look('SELECT "offset", state, outcome FROM sluice.dead_letters ORDER BY id')


def parked(bench: Bench) -> list[tuple[object, ...]]:
    return bench.look("SELECT key FROM sluice.parked_entities ORDER BY key")


def remembered(bench: Bench) -> list[tuple[object, ...]]:
    return bench.look('SELECT "offset", outcome FROM sluice.processed_events ORDER BY 1')
