"""Slices survive the way through a broker: kombu's msgpack, as Celery uses it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu import serialization

from sluice.kafka_io.record_types import Record
from sluice.tasks.apply.batch_message import Slice, pack, unpack

_bytes = st.none() | st.binary(max_size=20)
_headers = st.lists(st.tuples(st.text(max_size=5), _bytes), max_size=3)
_records = st.builds(Record, st.integers(0, 2**63 - 1), st.integers(-1, 2**53), _bytes, _bytes, _headers)
_slices = st.builds(
    Slice,
    st.text(max_size=9),
    st.text(max_size=9),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(-1, 2**63 - 1),
    st.lists(_records, min_size=1, max_size=3),
)


def through_kombu(payload: object) -> Any:
    kind, encoding, body = serialization.dumps(payload, serializer="msgpack")  # type: ignore[no-untyped-call]
    accept = ["application/x-msgpack"]
    return serialization.loads(body, kind, encoding, accept)  # type: ignore[no-untyped-call]


@given(st.lists(_slices, max_size=3))
def test_slices_arrive_as_they_were_sent(slices: list[Slice]) -> None:
    [packed] = through_kombu([pack(slices)])
    arrived = unpack(packed)
    # msgpack knows no tuples: a header comes back as a list of name and value.
    assert [_plain(piece) for piece in arrived] == [_plain(piece) for piece in slices]
    assert all(type(record) is Record for piece in arrived for record in piece.records)
    assert [piece.last for piece in arrived] == [piece.records[-1].offset for piece in slices]


def _plain(piece: Slice) -> list[Any]:
    records = [[*record[:4], [(name, value) for name, value in record.headers]] for record in piece.records]
    return [*piece[:5], records]


@pytest.mark.parametrize(
    "packed", [[[]], [["t", "id", 0, 1, -1, [[1, 2]]]], [1], [["t", "id", 0, 1, -1, None]]]
)
def test_anything_else_is_refused(packed: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        unpack(packed)


def test_a_records_size_counts_what_it_carries() -> None:
    empty = Record(0, 0, None, None, []).size_bytes()
    assert Record(0, 0, b"kk", b"vvv", []).size_bytes() == empty + 5
    assert Record(0, 0, None, None, [("h", b"x")]).size_bytes() > empty
