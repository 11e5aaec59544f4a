"""Random sequences of test actions on a `World`: events of every kind, repeats and redrives."""

import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from sluice.testing import Incoming
from sluice.testing.any_world import AnyWorld
from tests.db.testing.scripts_app import BEGIN, TABLES

KEYS = ("k1", "k2", "k3", "k4", "k5", "k6")
ROWS = ("r1", "r2", "r3")
NATURAL = ("natural", "passing")
Action = Callable[[AnyWorld], object]


def actions(rng: random.Random, count: int) -> Iterator[tuple[str, Action]]:
    """Yields random actions with their names. Most actions send an event."""
    for number in range(count):
        yield _action(rng, number)


def _action(rng: random.Random, number: int) -> tuple[str, Action]:
    kind = rng.random()
    if kind < 0.03:
        return "redrive", lambda world: world.redrive()
    if kind < 0.05:
        return "redeliver", lambda world: world.redeliver()
    if kind < 0.09:
        topic, key = _topic(rng), rng.choice(KEYS)
        value = rng.choice((b"no JSON", b"\xff", b"{}", b'{"event_id": "x", "type": "unknown"}', None))
        return f"send_raw {value!r}", lambda world: world.send_raw(topic, key, value)
    if kind < 0.12:
        table, row = rng.choice(("numbered", "plain", "derived")), rng.choice(ROWS)
        values, version = {"a": "put", "count": rng.randint(0, 3)}, rng.choice((None, 2, 4))
        return f"given {table} {row}", lambda world: world.given(table, row, values, version)
    event = _event(rng, number)
    return repr(event), lambda world: world.send_event(event)


def _topic(rng: random.Random) -> str:
    return rng.choice(("parking", "skipping", "places", *NATURAL))


def _event(rng: random.Random, number: int) -> Incoming:
    kind = rng.choice(("script", "script", "script", "script.twice", "script.projected", "ignored"))
    topic = _topic(rng)
    # A few events of natural topics yield effects that are refused there.
    steps = _natural_steps if topic in NATURAL and rng.random() < 0.95 else _steps
    data = {"plain": steps(rng), "again": steps(rng), "derived": steps(rng, projected=True)}
    version: Any = rng.choice((None, rng.randint(1, 5), rng.randint(1, 5)))
    if rng.random() < 0.25:
        version = BEGIN + timedelta(microseconds=rng.randint(1, 5))
    # Some ids are used again, with equal or different contents.
    id_ = f"e{number}" if rng.random() < 0.9 else f"e{rng.randint(0, max(number, 1))}"
    key = rng.choice((*KEYS, *KEYS, None))
    return Incoming(topic, key=key, type=kind, data=data, version=version, id=id_)


def _steps(rng: random.Random, *, projected: bool = False) -> list[dict[str, Any]]:
    steps = [_step(rng, projected=projected) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.04:
        steps.append({"do": "reject"})
    return steps


def _natural_steps(rng: random.Random, *, projected: bool = False) -> list[dict[str, Any]]:
    """Returns steps that a natural topic accepts."""
    found: list[dict[str, Any]] = []
    while not found or rng.random() < 0.5:
        step = _step(rng, projected=projected)
        if step["do"] in ("upsert", "merge", "delete") and step["table"] in ("numbered", "first", "derived"):
            found.append(step | {"version": rng.randint(1, 6)})
    return found


def _step(rng: random.Random, *, projected: bool) -> dict[str, Any]:
    kinds = ["insert", "upsert", "upsert", "merge", "delete", "increment", "read"]
    # The step of a Read emits the row. A projection must not emit, so it has no such step.
    kind = rng.choice(kinds[:-1] if projected else [*kinds, "emit", "call"])
    if kind == "emit":
        return {
            "do": kind,
            "key": rng.choice(("x", None)),
            "data": {"n": 1.5},
            "version": rng.choice((None, 3)),
        }
    if kind == "call":
        return {"do": kind, "once": rng.choice((None, "a", "b")), "data": {"n": rng.randint(1, 2)}}
    table = "derived" if projected else rng.choice([name for name in TABLES if name != "derived"])
    step: dict[str, Any] = {"do": kind, "table": table, "key": rng.choice(ROWS)}
    if rng.random() < 0.01:
        step["key"] = "too long a key"
    if kind in ("insert", "merge"):
        step["values"] = {name: _value(rng, name) for name in ("a", "b", "amount") if rng.random() < 0.6}
    if kind == "upsert":
        step["values"] = {name: _value(rng, name) for name in ("a", "b", "amount", "at", "more")}
    if kind == "increment":
        step["delta"], step["floor"] = rng.randint(-3, 3), rng.choice((None, None, 0))
        step["otherwise"] = [] if projected else [{"do": "emit", "key": "x", "data": {}, "version": None}]
    if kind in ("upsert", "merge", "delete"):
        # A projection that reads several topics must pass versions.
        step["version"] = rng.choice(
            ("event", rng.randint(1, 6), rng.randint(1, 6), 1 if projected else None)
        )
    return step


def _value(rng: random.Random, name: str) -> Any:
    if rng.random() < 0.02:
        return rng.choice((None, "far too long", 2**40, {"decimal": "1.005"}, {"decimal": "1E+9"}))
    match name:
        case "a":
            return rng.choice((None, "x", "é\"'"))
        case "b":
            return rng.randint(0, 2)
        case "amount":
            return rng.choice((None, 3, {"decimal": "-1.5"}))
        case "at":
            return rng.choice((None, {"at": 1}))
    return rng.choice((None, {"bb": 1, "a": [1e20, None]}, [-0.0]))
