"""The content of messages: a reader reads what a writer wrote, and refuses all other content."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.kafka_io.bounded_record import count_bytes
from sluice.kafka_io.record_types import Flaw, Record
from sluice.runtime import celery_options as names
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.installation.formats import NEWEST_FORMAT
from sluice.tasks.task_messages import READERS, WRITERS, FormatTooOld, TaskCall, UnknownTask, describe

_bytes = st.none() | st.binary(max_size=20)
_flaws = st.none() | st.builds(Flaw, st.integers(0, 9), st.integers(0, 2**40), st.binary(max_size=32))
_headers = st.lists(st.tuples(st.text(max_size=5), _bytes), max_size=3)
_records = st.builds(
    Record, st.integers(0, 2**63 - 1), st.integers(-1, 2**53), _bytes, _bytes, _headers, _flaws
)
_slices = st.builds(
    Slice,
    st.text(max_size=9),
    st.text(max_size=9),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(-1, 2**63 - 1),
    st.lists(_records, min_size=1, max_size=3),
)


def read(content: bytes) -> TaskCall:
    return READERS[NEWEST_FORMAT](content)


@given(st.text(max_size=9), st.lists(_slices, max_size=3))
def test_slices_are_read_as_they_were_written(queue: str, slices: list[Slice]) -> None:
    call = TaskCall(names.APPLY_TASK, (queue, slices))
    arrived = read(WRITERS[NEWEST_FORMAT](call))
    assert arrived == call
    assert all(type(record) is Record for piece in arrived.arguments[1] for record in piece.records)


@given(st.lists(_slices, min_size=1, max_size=2))
def test_format_1_contains_only_records_that_older_workers_can_read(slices: list[Slice]) -> None:
    call = TaskCall(names.APPLY_TASK, ("queue", slices))
    if any(record.flaw is not None for piece in slices for record in piece.records):
        with pytest.raises(FormatTooOld, match="format 2"):
            WRITERS[1](call)
        return
    content = WRITERS[1](call)
    arrays = msgspec.msgpack.decode(content)[1][1]
    assert all(len(record) == 5 for piece in arrays for record in piece[-1]), "older workers read five fields"
    assert READERS[1](content) == READERS[2](content) == call


def test_a_record_in_a_message_is_not_larger_than_its_bound() -> None:
    record = Record(2**62, 2**52, bytes(70_000), bytes(70_000), [("", b""), ("é" * 300, None)] * 1_000)
    overhead = len(WRITERS[2](TaskCall(names.APPLY_TASK, ("q", [Slice("t", "id", 0, 1, -1, [record])]))))
    assert overhead - count_bytes(record) <= 100


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (names.RELAY_TASK, ()),
        (names.PURGE_TASK, ()),
        (names.EFFECT_TASK, ("key",)),
        (names.REBUILD_TASK, ("projection", 2, "topic", 3)),
    ],
)
def test_the_arguments_of_other_tasks_are_read_as_they_were_written(
    task: str, arguments: tuple[Any, ...]
) -> None:
    assert read(WRITERS[NEWEST_FORMAT](TaskCall(task, arguments))) == TaskCall(task, arguments)


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (names.APPLY_TASK, ("queue",)),
        (names.APPLY_TASK, ("queue", [["t", "id", 0, 1, -1, None]])),
        (names.APPLY_TASK, ("queue", [["t", "id", 0, 1, -1, [[1, 2]]]])),
        (names.APPLY_TASK, ("queue", [], "more")),
        (names.EFFECT_TASK, (1,)),
        (names.REBUILD_TASK, ("projection", "2", "topic", 3)),
        (names.RELAY_TASK, ("more",)),
    ],
)
def test_wrong_arguments_are_refused(task: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(msgspec.MsgspecError):
        read(msgspec.msgpack.encode((task, arguments)))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UnknownTask):
        read(msgspec.msgpack.encode(("celery.backend_cleanup", ())))


@given(st.binary(max_size=60))
def test_any_other_bytes_are_refused(content: bytes) -> None:
    try:
        read(content)
    except (msgspec.MsgspecError, UnknownTask):
        return
    assert content == WRITERS[NEWEST_FORMAT](read(content))


def test_a_batch_is_described_without_its_records() -> None:
    piece = Slice("topic", "id", 0, 1, -1, [Record(5, 0, b"secret", b"secret", [])])
    assert describe(TaskCall(names.APPLY_TASK, ("order.0", [piece]))) == "(order.0, 1 record of 1 lane)"
