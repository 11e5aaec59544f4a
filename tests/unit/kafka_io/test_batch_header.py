"""Tests which unreadable records a batch header describes, and which fields of a damaged header are used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.kafka_io.batch_header import (
    BatchHeader,
    UnopenedRecords,
    find_unopened,
    read_header,
    split_batches,
)
from tests.harness.raw_batches import CODECS, build_batch, set_unknown_codec, set_unknown_format

UNKNOWN = BatchHeader(5, None, None, None, "unknown format 3", False)


def header(first: int, last: int, records: int | None = None, *, is_control: bool = False) -> BatchHeader:
    return BatchHeader(first, last, last - first + 1 if records is None else records, 1, "zstd", is_control)


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_is_read_without_decompressing_the_batch(codec: str) -> None:
    found = read_header(build_batch([("k", b"x" * 99)] * 3, codec=codec))
    assert (found.first_offset, found.last_offset, found.records, found.codec) == (0, 2, 3, codec)
    assert not found.is_control


def test_unknown_codecs_and_formats_are_named() -> None:
    batch = bytearray(build_batch([("k", b"x" * 99)], codec="zstd"))
    set_unknown_codec(batch)
    assert read_header(bytes(batch)).codec == "unknown codec 7"
    set_unknown_format(batch)
    assert read_header(bytes(batch)) == BatchHeader(0, None, None, None, "unknown format 3", False)


@given(st.lists(st.integers(1, 4), max_size=4), st.integers(0, 70))
def test_data_is_split_into_complete_batches(sizes: list[int], cut: int) -> None:
    batches = [build_batch([("k", b"x" * 9)] * size) for size in sizes]
    data = b"".join(batches)
    left = data[: max(0, len(data) - cut)]
    whole = [batch for n, batch in enumerate(batches) if len(b"".join(batches[: n + 1])) <= len(left)]
    assert split_batches(left) == whole


@pytest.mark.parametrize(
    ("headers", "offset", "expected"),
    [
        ([header(5, 9)], 5, UnopenedRecords(5, 5, 9, 5, 1, "zstd")),
        # The records of the batch before offset 7 were read.
        ([header(5, 9)], 7, UnopenedRecords(7, 7, 9, 3, 1, "zstd")),
        # Offsets 3 and 4 hold no records.
        ([header(5, 9)], 3, UnopenedRecords(3, 5, 9, 5, 1, "zstd")),
        # After compaction, the batch has fewer records than offsets.
        ([header(5, 9, 2)], 5, UnopenedRecords(5, 5, 9, 2, 1, "zstd")),
        ([header(4, 4, is_control=True), header(5, 9)], 4, UnopenedRecords(4, 5, 9, 5, 1, "zstd")),
        # Headers with impossible values.
        ([header(5, 2_000_000)], 5, UnopenedRecords(5, 5, 19, 15, 1, "zstd")),
        ([header(5, 12), header(8, 9)], 5, UnopenedRecords(5, 5, 7, 3, 1, "zstd")),
        ([header(5, 9, -1)], 5, UnopenedRecords(5, 5, 9, 5, 1, "zstd")),
        ([UNKNOWN, header(8, 9)], 5, UnopenedRecords(5, 5, 7, 3, 0, "unknown format 3")),
        ([UNKNOWN], 5, UnopenedRecords(5, 5, 19, 15, 0, "unknown format 3")),
        ([header(4, 4, is_control=True)], 4, None),
        ([], 4, None),
    ],
)
def test_the_skipped_records_are_the_rest_of_one_batch(
    headers: list[BatchHeader], offset: int, expected: UnopenedRecords | None
) -> None:
    assert find_unopened(headers, offset, log_end=20) == expected


@given(
    first=st.integers(0, 20),
    last_delta=st.integers(-(2**31), 2**31 - 1),
    records=st.integers(-(2**31), 2**31 - 1),
    gap=st.integers(0, 3),
    following=st.integers(1, 9) | st.none(),
)
def test_no_record_after_the_batch_is_skipped(
    first: int, last_delta: int, records: int, gap: int, following: int | None
) -> None:
    headers = [BatchHeader(first, first + last_delta, records, 1, "gzip", False)]
    log_end = first + 30
    if following is not None:
        headers.append(header(first + following, first + following))
    found = find_unopened(headers, first - gap, log_end=log_end)
    assert found is not None
    assert found.passed_from == first - gap <= found.first_offset == first <= found.last_offset
    assert found.last_offset < (log_end if following is None else first + following)
    assert 0 < found.records <= found.last_offset - found.first_offset + 1
