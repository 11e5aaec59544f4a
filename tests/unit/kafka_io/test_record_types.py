"""The counted size of a record is not smaller than its size in memory or in a message."""

import gc
import os
import tracemalloc
from collections import deque

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.kafka_io.record_types import Headers, Record, size_bytes

COUNT = 500


def headers_of(count: int, name: str = "h", value_bytes: int | None = 4) -> Headers:
    return [
        (f"{name}{number}", None if value_bytes is None else os.urandom(value_bytes))
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "name", "value_bytes"),
    [
        (0, "", None),
        (3, "h", 36),
        (100, "h", 2),
        (100, "h", None),
        (1, "h", 100_000),
        (1, "h" * 100_000, 1),
        (10, "ü€" * 10, 4),
        (10, "😀" * 20, 4),
    ],
)
def test_the_counted_size_of_a_record_covers_its_memory(
    count: int, name: str, value_bytes: int | None
) -> None:
    def hold() -> deque[tuple[Record, int]]:
        records = (
            Record(
                10**6 + n, 10**12 + n, os.urandom(16), os.urandom(100), headers_of(count, name, value_bytes)
            )
            for n in range(COUNT)
        )
        return deque((record, size_bytes(record)) for record in records)

    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = hold()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = sum(size for _, size in held)
    assert 0.95 * taken <= counted <= 2.5 * taken


@given(
    st.none() | st.binary(max_size=50),
    st.none() | st.binary(max_size=50),
    st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=50)), max_size=10),
)
def test_the_counted_size_of_a_record_is_at_least_its_size_in_a_message(
    key: bytes | None, value: bytes | None, headers: Headers
) -> None:
    record = Record(2**60, 2**60, key, value, headers)
    assert size_bytes(record) >= len(msgspec.msgpack.encode(record))


def test_each_byte_of_a_header_counts() -> None:
    bare = size_bytes(Record(0, 0, b"k", b"v", []))
    small = size_bytes(Record(0, 0, b"k", b"v", [("name", b"")]))
    assert size_bytes(Record(0, 0, b"k", b"v", [("name", b"x" * 1_000)])) == small + 1_000
    assert size_bytes(Record(0, 0, b"k", b"v", [("name" + "x" * 1_000, None)])) == small + 1_000
    assert size_bytes(Record(0, 0, b"k", b"v", [("name", b"")] * 7)) - bare == 7 * (small - bare)
