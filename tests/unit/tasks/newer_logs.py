"""Logs for the optimistic path: events of several entities, most of them new and newer than their rows.

Also logs of topics with other modes of `dedup`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from hypothesis import strategies as st
from sqlalchemy import Table

from sluice.db.tables import shape_of
from sluice.tasks.api import EVENT, Call, Delete, Emit, Increment, Insert, Merge, Read, Upsert
from sluice.tasks.events.identity import record_identity
from sluice.tasks.fold.plan import Planned
from tests.unit.tasks.scripted import TOPIC_ID, scripted
from tests.unit.tasks.strategies import (
    EVERY_TYPE_KEPT,
    FIRST_WINS,
    MERGED,
    MERGED_KEPT,
    PLAIN,
    TIMED,
    TIMED_FIRST,
    every_type_values,
    few_values,
    whole,
)

KEPT = (PLAIN, TIMED, TIMED_FIRST, MERGED_KEPT, EVERY_TYPE_KEPT)
KEYS = tuple(f"k{n}" for n in range(5))

_integers = st.integers(1, 9)
_moments = _integers.map(lambda n: datetime(2026, 1, 1, microsecond=n, tzinfo=UTC))


def _writes(table: Table, key: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    values: st.SearchStrategy[Mapping[str, Any]] = (
        every_type_values if table is EVERY_TYPE_KEPT else few_values
    )
    moments: st.SearchStrategy[Any] = _moments if shape_of(table).versions == "timestamp" else _integers
    versions = st.sampled_from((*(moments,) * 8, st.just(EVENT), st.just(None))).flatmap(lambda one: one)
    upserts = st.builds(Upsert, st.just(table), key, values.map(partial(whole, table)), versions)
    inserts = st.builds(Insert, st.just(table), key, values)
    merges = st.builds(Merge, st.just(table), key, values, versions)
    return st.one_of(upserts, upserts, upserts, inserts, *([merges] if table is MERGED_KEPT else []))


def _steps(key: str) -> st.SearchStrategy[Any]:
    own = st.sampled_from((*(key,) * 12, *KEYS))
    counted = st.sampled_from((PLAIN, TIMED, TIMED_FIRST, MERGED_KEPT))
    increments = st.builds(
        Increment,
        counted,
        own,
        st.fixed_dictionaries({"count": st.integers(-2, 5)}),
        st.sampled_from((None, None, None, 0)),
    )
    emits = st.builds(Emit, st.just("out"), own, st.just("told"), st.just({"a": 1}))
    calls = st.builds(
        Call, st.just("notify"), st.sampled_from((None, None, None, "a", "b")), st.just({"x": key})
    )
    reads = st.builds(Read, counted, own)
    writes = [_writes(table, own) for table in KEPT]
    return st.one_of(*writes, *writes, increments, increments, emits, emits, calls, reads)


_seldom = st.sampled_from((*(False,) * 12, True))
_types = st.sampled_from((*(None,) * 25, "script.ignored", "unknown"))


@st.composite
def newer_logs(draw: st.DrawFn) -> list[Planned]:
    """Draws such a log. Few of its events are repeats, faulty, or need a row that is read first."""
    log: list[Planned] = []
    for offset in range(draw(st.integers(4, 14))):
        if draw(_seldom) and log:
            log.append(draw(st.sampled_from(log)))
            continue
        key = draw(st.sampled_from(KEYS))
        script = draw(st.lists(_steps(key), min_size=1, max_size=3))
        if draw(_seldom):
            script.append(RuntimeError("a fault"))
        log.append(
            scripted(
                offset,
                *script,
                second=draw(st.lists(_steps(key), min_size=1, max_size=2)) if draw(_seldom) else (),
                type=draw(_types),
                version=draw(_integers | st.just(offset + 10) | _moments),
                identity=draw(st.integers(0, 60)) if draw(_seldom) else None,
                key=key,
            )
        )
    return log


NATURAL = (PLAIN, TIMED_FIRST, MERGED_KEPT, MERGED["integer"], FIRST_WINS)


def _natural_writes(table: Table, key: str) -> st.SearchStrategy[Any]:
    moments: st.SearchStrategy[Any] = _moments if shape_of(table).versions == "timestamp" else _integers
    upserts = st.builds(Upsert, st.just(table), st.just(key), few_values.map(partial(whole, table)), moments)
    merges = st.builds(Merge, st.just(table), st.just(key), few_values, moments)
    deletes = st.builds(Delete, st.just(table), st.just(key), moments)
    shape = shape_of(table)
    return st.one_of(
        upserts, upserts, *([merges] if shape.merged else []), *([deletes] if shape.deletable else [])
    )


@st.composite
def natural_logs(draw: st.DrawFn) -> list[Planned]:
    """Draws a log of a natural topic. Some records are read again, or sent again at a later offset."""
    log: list[Planned] = []
    for offset in range(draw(st.integers(4, 14))):
        if draw(_seldom) and log:
            log.append(draw(st.sampled_from(log)))
            continue
        key = draw(st.sampled_from(KEYS))
        if draw(_seldom) and log:
            before = draw(st.sampled_from(log))
            if before.decoded.event is not None:
                script, key = before.decoded.event.data["first"], str(before.decoded.entity_key)
        else:
            writes = st.one_of(*(_natural_writes(table, key) for table in NATURAL))
            script = draw(st.lists(writes, min_size=1, max_size=3))
            if draw(_seldom):
                refused = (
                    Increment(PLAIN, key, {"count": 1}),
                    Emit("out", key, "told", {}),
                    RuntimeError("x"),
                )
                script.append(draw(st.sampled_from(refused)))
        log.append(scripted(offset, *script, type=draw(_types), key=key, dedup="natural"))
    return log


def by_position(log: list[Planned]) -> list[Planned]:
    """Returns the log as one of a topic with dedup="position": no record is read again."""
    once = {one.decoded.record.offset: one for one in log}
    return [_at_position(once[offset]) for offset in sorted(once)]


def _at_position(planned: Planned) -> Planned:
    here = record_identity(TOPIC_ID, 0, planned.decoded.record.offset)
    return msgspec.structs.replace(
        planned, decoded=msgspec.structs.replace(planned.decoded, dedup="position", identity=here)
    )
