"""A record's size, near enough for the bounds."""

from sluice.kafka_io.record_types import Record


def test_a_records_size_counts_what_it_carries() -> None:
    empty = Record(0, 0, None, None, []).size_bytes()
    assert Record(0, 0, b"kk", b"vvv", []).size_bytes() == empty + 5
    assert Record(0, 0, None, None, [("h", b"x")]).size_bytes() > empty
