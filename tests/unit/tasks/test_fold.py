"""The decisions of the fold, which runs the handlers of a batch of events without Postgres.

The gate is the rule that the first stale or duplicate write ends its handler.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed
from sqlalchemy import Table

from sluice.db.records import Outcome
from sluice.tasks.api import EVENT, Call, Emit, Increment, Insert, Read, Rejected, Upsert, WriteVersion
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.fold.emitting import MAX_EMIT_BYTES, checked_emit, outbox_row
from sluice.tasks.fold.fold_state import FoldState
from tests.unit.tasks.scripted import INTEGER, TIMESTAMP, folded, fresh_memory, outcomes, scripted
from tests.unit.tasks.strategies import PLAIN, whole

APPLIED, STALE, DUPLICATE = Outcome.APPLIED, Outcome.STALE, Outcome.DUPLICATE
CONFLICT, DEAD, IGNORED = Outcome.CONFLICT, Outcome.DEAD, Outcome.IGNORED


def upsert(key: str | None, version: WriteVersion, *, table: Table = INTEGER, **values: Any) -> Upsert:
    return Upsert(table, key, whole(table, values), version)


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TOLD = Emit("out", key="k", type="told", data={"n": 1})
NOTIFY = Call("notify", once="n", args={"n": 1})
A1, A2, OTHER_A2 = (
    upsert("k", 1, a="one"),
    upsert("k", 2, a="two"),
    upsert("k", 2, a="zwei"),
)
ELSEWHERE = upsert("other", 1, a="x")


def present(memory: FoldState) -> dict[str, Any]:
    return {key: dict(row.values) for (_, key), row in memory.rows.items() if row.values is not None}


# (case, writes of earlier events, the event, its outcome, its number of emits and calls)
DECISIONS: list[tuple[str, list[Any], dict[str, Any], Outcome, int]] = [
    ("no effect", [], {}, IGNORED, 0),
    ("only an emit", [], {"first": [TOLD]}, APPLIED, 1),
    ("only a read", [], {"first": [Read(INTEGER, "k")]}, APPLIED, 1),
    ("a stale write ends its handler", [A2], {"first": [A1, TOLD, NOTIFY]}, STALE, 0),
    ("a duplicate write ends its handler", [A2], {"first": [A2, TOLD]}, DUPLICATE, 0),
    ("effects before the gate remain", [A2], {"first": [TOLD, A1, NOTIFY]}, APPLIED, 1),
    ("a fault after the gate is never reached", [A2], {"first": [A1, RuntimeError("x")]}, STALE, 0),
    ("a conflict undoes everything", [A2], {"first": [TOLD, NOTIFY, ELSEWHERE, OTHER_A2]}, CONFLICT, 0),
    ("a fault undoes everything", [A2], {"first": [TOLD, NOTIFY, ELSEWHERE, RuntimeError("x")]}, DEAD, 0),
    ("a rejection undoes everything", [A2], {"first": [TOLD, ELSEWHERE, Rejected("x")]}, DEAD, 0),
    ("a refused value is a dead letter", [], {"first": [TOLD, upsert("k", 1, b="x")]}, DEAD, 0),
    ("an emit that is not JSON is a dead letter", [], {"first": [Emit("t", None, "x", object())]}, DEAD, 0),
    ("an emit over the limit is a dead letter",
        [], {"first": [Emit("t", None, "x", "x" * MAX_EMIT_BYTES)]}, DEAD, 0),
    ("an emit with a header that is not text is a dead letter",
        [], {"first": [Emit("t", None, "x", 1, headers={"n": 1})]}, DEAD, 0),  # type: ignore[dict-item]
    ("no key", [], {"first": [upsert(None, 1)]}, DEAD, 0),
    ("a key that is too long", [], {"first": [upsert("k" * 256, 1)]}, DEAD, 0),
    ("no version where a version is required", [], {"first": [upsert("k", EVENT)]}, DEAD, 0),
    ("no version where no version is required", [], {"first": [Insert(INTEGER, "k", {})]}, APPLIED, 0),
    ("version=None requires no version", [], {"first": [upsert("k", None)]}, APPLIED, 0),
    ("a version of the other kind", [], {"first": [upsert("k", 1, table=TIMESTAMP)]}, DEAD, 0),
    ("an insert with a version of the other kind",
        [], {"first": [Insert(TIMESTAMP, "k", {})], "version": 1}, DEAD, 0),
    ("a version over 64 bits", [], {"first": [upsert("k", 2**63)]}, DEAD, 0),
    ("an increment below the floor has the effects of `otherwise`",
        [], {"first": [Increment(PLAIN, "k", {"count": -1}, 0, (TOLD, NOTIFY)), ELSEWHERE]}, APPLIED, 2),
    ("a stale write in `otherwise` ends the effects of `otherwise`",
        [A2], {"first": [Increment(PLAIN, "k", {"count": -1}, 0, (A1, TOLD))]}, APPLIED, 0),
    ("two handlers: a fault in the second undoes the first",
        [], {"first": [TOLD, A1], "second": [RuntimeError("x")]}, DEAD, 0),
    ("two handlers: a conflict in the second undoes the first",
        [A2], {"first": [TOLD], "second": [OTHER_A2]}, CONFLICT, 0),
    ("two handlers: DEAD outranks CONFLICT",
        [A2], {"first": [RuntimeError("x")], "second": [OTHER_A2]}, DEAD, 0),
    ("two handlers: the gate ends only the first", [A2], {"first": [A1, TOLD], "second": [TOLD]}, APPLIED, 1),
    ("two handlers: STALE outranks DUPLICATE", [A2], {"first": [A2], "second": [A1]}, STALE, 0),
    ("two handlers: the second sees the rows of the first", [], {"first": [A1], "second": [A1]}, APPLIED, 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "event", "outcome", "made"), [c[1:] for c in DECISIONS], ids=[c[0] for c in DECISIONS]
)
def test_the_fold_decides_the_outcome_of_an_event(
    before: list[Any], event: dict[str, Any], outcome: Outcome, made: int
) -> None:
    event = dict(event)
    first = event.pop("first", [])
    earlier = [scripted(i, write) for i, write in enumerate(before)]
    memory, result = folded(*earlier, scripted(50, *first, **event))
    assert outcomes(result)[-1] is outcome
    assert len(result.emits) + len(result.calls) == made
    assert (result.settled[-1].error is None) == (outcome not in (DEAD, CONFLICT))
    if outcome in (CONFLICT, DEAD):
        assert present(memory) == present(folded(*earlier)[0])


def test_the_error_of_a_conflict_names_the_write() -> None:
    _, result = folded(scripted(0, A2), scripted(1, OTHER_A2))
    assert "Upsert of merged_integer 'k': the stored row has the same version" in str(result.settled[1].error)


def test_a_repeated_identity_changes_nothing() -> None:
    once, twice = scripted(0, TOLD, identity=1), scripted(1, TOLD, A1, identity=1)
    memory, result = folded(once, twice)
    assert outcomes(result) == [APPLIED, DUPLICATE]
    assert [settled.known for settled in result.settled] == [False, True]
    assert len(result.emits) == 1
    assert memory.rows == {}


def test_a_known_identity_with_other_data_is_a_conflict() -> None:
    _, result = folded(scripted(0, TOLD, identity=1), scripted(1, TOLD, identity=1, content=2))
    assert outcomes(result) == [APPLIED, CONFLICT]
    assert "seen before at 0:0" in str(result.settled[1].error)


def test_a_redelivered_record_is_not_counted_again() -> None:
    record = scripted(0, TOLD)
    memory, result = folded(record, record)
    assert outcomes(result) == [APPLIED, None]
    assert outcomes(folded(record, memory=memory)[1]) == [None]


@pytest.mark.parametrize("script", [[RuntimeError("x")], []])
def test_a_repeat_of_a_failed_or_ignored_event_is_a_duplicate(script: list[Any]) -> None:
    kind = None if script else "script.ignored"
    _, result = folded(scripted(0, *script, type=kind, identity=1), scripted(1, TOLD, type=kind, identity=1))
    assert outcomes(result) == [DEAD if script else IGNORED, DUPLICATE]


def test_a_type_without_handler_is_ignored_only_if_the_topic_ignores_it() -> None:
    _, result = folded(scripted(0, type="script.ignored"), scripted(1, type="script.unknown"))
    assert outcomes(result) == [IGNORED, DEAD]
    assert "no handler for type 'script.unknown'" in str(result.settled[1].error)


def test_a_read_sees_writes_of_earlier_events_of_the_batch_and_of_its_own_event() -> None:
    _, result = folded(
        scripted(0, Read(INTEGER, "k")),
        scripted(1, A1),
        scripted(2, Read(INTEGER, "k"), A2, Read(INTEGER, "k")),
    )
    rows = [msgspec.json.decode(emit.payload) for emit in result.emits]
    seen = {"id": "k", "b": 7, "count": 0}
    assert rows == [None, {**seen, "a": "one", "version": 1}, {**seen, "a": "two", "version": 2}]


def test_a_handler_that_reads_receives_the_row_and_runs_to_its_end() -> None:
    memory, result = folded(scripted(0, TOLD, Read(INTEGER, "k"), A1, second=[Read(PLAIN, "k"), TOLD]))
    assert outcomes(result) == [APPLIED]
    assert [emit.type for emit in result.emits] == ["told", "row.1", "row.0", "told"]
    assert present(memory) == {"k": {"a": "one", "b": 7, "count": 0}}


def test_a_repeated_call_is_skipped_but_is_a_call_conflict_if_its_args_differ() -> None:
    other = changed(NOTIFY, args={"n": 2})
    _, result = folded(
        scripted(0, NOTIFY), scripted(1, NOTIFY), scripted(2, other, TOLD), scripted(3, NOTIFY, other)
    )
    assert outcomes(result) == [APPLIED] * 4
    assert [call.effect_key for call in result.calls] == ["notify:n"]
    assert [call.effect_key for call in result.call_conflicts] == ["notify:n"] * 2
    assert [settled.call_conflicts for settled in result.settled] == [0, 0, 1, 1]
    assert len(result.emits) == 1, "the event is applied without the call"


def test_the_key_of_a_call_without_once_contains_event_handler_and_position() -> None:
    call = Call("notify", args={})
    _, result = folded(scripted(0, call, call, second=[call]), scripted(1, call))
    assert len({call.effect_key for call in result.calls}) == 4
    assert not any(call.explicit_once for call in result.calls)


def test_a_call_of_a_failed_event_does_not_use_its_key() -> None:
    _, result = folded(scripted(0, NOTIFY, RuntimeError("x")), scripted(1, NOTIFY))
    assert [call.identity for call in result.calls] == [UUID(int=1_001)]


def test_an_emitted_event_has_the_time_and_the_trace_of_its_cause() -> None:
    planned = scripted(0, changed(TOLD, headers={"x": "y"}, version=3))
    run = planned.runs[0]
    headers = (("traceparent", TRACEPARENT.encode()), ("other", b"x"), ("tracestate", None))
    run.event = changed(run.event, headers=headers)
    emit = folded(planned)[1].emits[0]
    sent = {"traceparent": TRACEPARENT, "ce_time": "2026-01-01T00:00:00+00:00", "x": "y"}
    assert msgspec.json.decode(emit.headers) == sent
    assert (emit.key, emit.version, emit.payload) == ("k", "3", '{"n":1}')


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_emitted_event_has_the_same_time_with_and_without_headers(time: datetime) -> None:
    plain = checked_emit(Emit("t", key="k", type="t", data={}))
    for emit in (plain, changed(plain, headers={"x": "y"})):
        headers = msgspec.json.decode(outbox_row(emit, UUID(int=1), time, {}).headers)
        assert headers == {"ce_time": time.isoformat(), **emit.headers}


LOST = ConnectionError("lost")


def _fail(*_: object) -> Any:
    raise LOST


@pytest.mark.parametrize(
    ("broken", "script"),
    [({"load_row": _fail}, [Read(INTEGER, "k")]), ({"load_effect": _fail}, [NOTIFY])],
    ids=["row", "effect key"],
)
def test_a_connection_lost_while_loading_is_not_the_fault_of_an_event(
    broken: dict[str, Any], script: list[Any]
) -> None:
    with pytest.raises(ConnectionError) as raised:
        folded(scripted(0, *script), memory=replace(fresh_memory(), **broken))
    assert raised.value is LOST


def test_an_error_of_a_handler_is_its_events_fault_even_if_a_load_raised_the_same_error() -> None:
    _, result = folded(scripted(0, Read(INTEGER, "k"), LOST))
    assert [(one.outcome, one.error) for one in result.settled] == [(Outcome.DEAD, EventFault.of(LOST))]
