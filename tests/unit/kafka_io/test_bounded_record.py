"""Records that are too large for a message lose their value. Unreadable headers are removed."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from sluice.kafka_io.bounded_record import (
    HEADER_BYTES,
    bounded,
    count_bytes,
    is_whole_of,
    record_of_consumed,
)
from sluice.kafka_io.header_names import accept_any_header_name
from sluice.kafka_io.record_types import Flaw, Record
from tests.harness.header_names import RawName

CODECS = {"none": 0, "gzip": 1}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=40)), max_size=8)
records = st.builds(
    Record,
    st.just(7),
    st.just(1),
    st.none() | st.binary(max_size=120),
    st.none() | st.binary(max_size=200),
    headers,
    st.none(),
)


@given(records, st.integers(0, 400))
def test_a_bounded_record_is_never_larger_than_the_bound(record: Record, most: int) -> None:
    found = bounded(record, most)
    assert count_bytes(found) <= most
    if count_bytes(record) <= most:
        assert found is record
        return
    assert found.value is None
    assert found.flaw == Flaw(0, count_bytes(record), sha256(record.value or b"").digest())
    assert (found.key is None) == (record.key is None)
    assert (record.key or b"").startswith(found.key or b"")
    assert found.headers == record.headers[: len(found.headers)], "the first headers are kept, unchanged"
    assert is_whole_of(record, found)


@given(records)
def test_a_key_and_headers_within_the_bound_are_kept_complete(record: Record) -> None:
    without_value = record._replace(value=None)
    found = bounded(record._replace(value=bytes(1_000)), count_bytes(without_value))
    assert found._replace(flaw=None) == without_value


def test_the_names_of_headers_are_counted_in_bytes() -> None:
    assert count_bytes(Record(0, 0, b"kk", b"vvv", [("é", b"xx"), ("", None)])) == 5 + 2 * HEADER_BYTES + 4


@pytest.mark.parametrize(
    "other",
    [
        Record(8, 1, b"key", b"value", []),
        Record(7, 2, b"key", b"value", []),
        Record(7, 1, b"kex", b"value", []),
        Record(7, 1, None, b"value", []),
        Record(7, 1, b"key", b"valuf", []),
        Record(7, 1, b"key", None, []),
    ],
)
def test_a_different_record_is_not_recognised_as_the_complete_record(other: Record) -> None:
    record = Record(7, 1, b"key", b"value", [])
    cut = bounded(record, 4)
    assert is_whole_of(record, cut)
    assert not is_whole_of(other, cut)


def test_a_record_without_a_bound_is_unchanged_and_a_flaw_is_kept() -> None:
    record = Record(7, 1, None, bytes(100), [], Flaw(2))
    assert bounded(record, None) is record
    assert bounded(record, 10).flaw == Flaw(2, 100, sha256(bytes(100)).digest())


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_kafka_python_reads_headers_with_names_that_are_not_utf_8(codec: str) -> None:
    accept_any_header_name()
    builder = MemoryRecordsBuilder(magic=2, compression_type=CODECS[codec], batch_size=1_000_000)
    given_headers = [
        [("a", b"1")],
        [("a", b"1"), (RawName(b"\xff"), b"2"), ("ä", b"")],
        [(RawName(b"\xed\xa0\x80"), b"2"), (RawName(b"\x80"), b"")],
        [("", b"e"), ("a\0b", b"n")],
    ]
    for number, pairs in enumerate(given_headers):
        builder.append(timestamp=1, key=b"k%d" % number, value=b"v%d" % number, headers=pairs)
    builder.close()
    (batch,) = list(MemoryRecords(builder.buffer()))
    found = [
        record_of_consumed(("t", 0, 0, r.offset, r.timestamp, 0, r.key, r.value, r.headers), None)
        for r in batch
    ]
    assert [(r.key, r.value) for r in found] == [(b"k%d" % n, b"v%d" % n) for n in range(4)]
    assert [(r.headers, r.flaw) for r in found] == [
        ([("a", b"1")], None),
        ([("a", b"1"), ("ä", b"")], Flaw(1)),
        ([], Flaw(2)),
        ([("", b"e"), ("a\0b", b"n")], None),
    ]
