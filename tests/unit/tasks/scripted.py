"""Events whose data lists the effects to yield, so that Hypothesis can vary what handlers do."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import ModuleType
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from sqlalchemy import Table

from sluice.db.records import Outcome
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import (
    EVENT,
    Call,
    Delete,
    Effect,
    Emit,
    Entity,
    Event,
    Increment,
    Insert,
    Merge,
    Read,
    Rejected,
    Topic,
    Upsert,
    effect,
    handles,
)
from sluice.tasks.events.decode import Decoded, DecodeError
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.events.identity import record_identity
from sluice.tasks.fold.fold import fold
from sluice.tasks.fold.fold_state import EventResult, FoldResult, FoldState
from sluice.tasks.fold.plan import Planned, plan_event
from sluice.tasks.fold.registry import Registry, collect_modules
from sluice.tasks.fold.versioned_row import ABSENT
from tests.unit.tasks.strategies import (
    EVERY_TYPE,
    FIRST_WINS,
    MERGED,
    PLAIN,
    every_type_values,
    few_values,
    whole,
)

TOPIC, TOPIC_ID = "scripts", "id-of-scripts"
INTEGER, TIMESTAMP = MERGED["integer"], MERGED["timestamp"]


def _run_script(script: Sequence[Any]) -> Iterator[Effect]:
    """Yields the effects of the script, raises its exceptions, and emits each row that it reads."""
    for number, step in enumerate(script):
        if isinstance(step, Exception):
            raise step
        row = yield step
        if isinstance(step, Read):
            yield Emit("seen", key=None, type=f"row.{number}", data=row)


@handles("script", "script.twice")
def first(event: Event[Any]) -> Iterator[Effect]:
    """Runs the script data["first"]."""
    yield from _run_script(event.data["first"])


@handles("script.twice")
def second(event: Event[Any]) -> Iterator[Effect]:
    """Runs the script data["second"]."""
    yield from _run_script(event.data["second"])


@effect("notify", on_unknown="ask")
def notify(call: Any) -> dict[str, Any]:
    """Is declared, but never called in these tests."""
    return {}


def _registry() -> Registry:
    module = ModuleType("scripted")
    vars(module).update(first=first, second=second, notify=notify)
    # All events belong to one entity. If a failed event parked the entity, all later events would wait.
    topic = Topic(TOPIC, entity=Entity("script"), ignores=("script.ignored",), on_failure="skip")
    vars(module)["topics"] = (topic,)
    return collect_modules([module])


REGISTRY = _registry()


def scripted(
    offset: int,
    *script: Any,
    second: Sequence[Any] = (),
    type: str | None = None,
    version: int | datetime | None = None,
    identity: int | None = None,
    content: int = 0,
    error: DecodeError | None = None,
    key: str = "entity",
    dedup: str = "id",
) -> Planned:
    """Returns an event; an equal `identity` (and `content`) makes the event a repeat of another event.

    `dedup` is the mode of the topic.
    """
    type = type or ("script.twice" if second else "script")
    id_ = UUID(int=1_000 + offset if identity is None else identity)
    if dedup != "id":
        id_ = record_identity(TOPIC_ID, 0, offset)
    data = {"first": script, "second": second}
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=offset)
    event = Event(str(id_), type, key, version, time, data, TOPIC, 0, offset)
    decoded = Decoded(
        record=Record(offset, 0, key.encode(), b"raw", [("h", b"\xff")]),
        topic=TOPIC,
        topic_id=TOPIC_ID,
        partition=0,
        entity_key=key,
        identity=id_,
        data_hash=UUID(int=content),
        event=None if error else event,
        error=None if error is None else EventFault.of(error),
        event_id=str(id_),
        type=type,
        source=None,
        dedup=dedup,
    )
    return plan_event(REGISTRY, REGISTRY.topics[TOPIC], decoded)


def fresh_memory() -> FoldState:
    """Returns an empty fold state."""
    return FoldState(lambda _table, _key: ABSENT, lambda _key: None)


def folded(*events: Planned, memory: FoldState | None = None) -> tuple[FoldState, FoldResult]:
    """Folds the events into a fold state, by default an empty one; returns the state and the result."""
    memory = memory or fresh_memory()
    return memory, fold(events, memory)


def results(settled: Sequence[EventResult]) -> list[tuple[Any, ...]]:
    """Returns the result of each record as values that can be compared."""
    return [
        (s.planned.decoded.record.offset, s.outcome, repr(s.error), s.known, s.call_conflicts)
        for s in settled
    ]


_keys = st.sampled_from(("k", "é\"'\\{},NULL"))
_integers = st.integers(1, 4)
_moments = _integers.map(lambda n: datetime(2026, 1, 1, microsecond=n, tzinfo=UTC))


def _writes(table: Table, values: st.SearchStrategy[Mapping[str, Any]]) -> st.SearchStrategy[Any]:
    moments: st.SearchStrategy[Any] = _moments if table in (TIMESTAMP, FIRST_WINS) else _integers
    versions = st.sampled_from((*(moments,) * 8, st.just(EVENT), st.just(None))).flatmap(lambda one: one)
    rows = values.map(partial(whole, table))
    of_rows = st.builds(Insert, st.just(table), _keys, values) | st.builds(
        Upsert, st.just(table), _keys, rows, versions
    )
    if table is PLAIN:
        return of_rows
    return (
        of_rows
        | st.builds(Merge, st.just(table), _keys, values, versions)
        | st.builds(Delete, st.just(table), _keys, versions)
    )


_tables = st.sampled_from((INTEGER, TIMESTAMP, FIRST_WINS, PLAIN))
_emits = st.builds(
    Emit, st.just("out"), _keys | st.none(), st.just("told"), every_type_values, st.none() | st.integers(0, 9)
)
_calls = st.builds(
    Call,
    st.just("notify"),
    st.none() | st.sampled_from(("a", "b")),
    st.sampled_from(({}, {"x": 1}, {"x": 'é"\\'})),
)
_increments = st.builds(
    Increment,
    _tables,
    _keys,
    st.fixed_dictionaries({"count": st.integers(-3, 3)}),
    st.none() | st.just(0),
    st.lists(_emits | _calls | _writes(PLAIN, few_values), max_size=2).map(tuple),
)
_steps = st.one_of(
    _writes(INTEGER, few_values),
    _writes(TIMESTAMP, few_values),
    _writes(FIRST_WINS, few_values),
    _writes(PLAIN, few_values),
    _writes(EVERY_TYPE, every_type_values),
    _writes(EVERY_TYPE, every_type_values),
    _increments,
    st.builds(Read, _tables | st.just(EVERY_TYPE), _keys),
    _emits,
    _calls,
)
_scripts = st.lists(_steps, min_size=1, max_size=4)
_faults = st.sampled_from((Rejected("refused"), RuntimeError("a fault")))
_types = st.sampled_from((*(None,) * 20, "script.ignored", "unknown"))
_errors = st.sampled_from((*(None,) * 20, DecodeError("unreadable")))
_seldom = st.sampled_from((*(False,) * 15, True))


@st.composite
def event_logs(draw: st.DrawFn, max_size: int = 8) -> list[Planned]:
    """Draws events of every kind in offset order, with repeated ids, contents and whole records."""
    log: list[Planned] = []
    for offset in range(draw(st.integers(2, max_size))):
        if draw(_seldom) and log:
            log.append(draw(st.sampled_from(log)))
            continue
        script = draw(_scripts)
        if draw(_seldom):
            script.append(draw(_faults))
        log.append(
            scripted(
                offset,
                *script,
                second=draw(_scripts) if draw(st.booleans()) else (),
                type=draw(_types),
                version=draw(_integers | _integers | _moments | st.none()),
                identity=draw(st.integers(0, 60)),
                content=draw(st.sampled_from((0, 0, 0, 1))),
                error=draw(_errors),
            )
        )
    return log


def splits(log: Sequence[Planned]) -> st.SearchStrategy[list[Sequence[Planned]]]:
    """Draws batches: the log, split at any points."""
    points = st.lists(st.integers(0, len(log)), max_size=4).map(
        lambda cuts: [0, *sorted(set(cuts)), len(log)]
    )
    return points.map(lambda cuts: [log[a:b] for a, b in itertools.pairwise(cuts)])


def outcomes(result: FoldResult) -> list[Outcome | None]:
    """Returns the outcomes of the events, in order."""
    return [settled.outcome for settled in result.settled]
