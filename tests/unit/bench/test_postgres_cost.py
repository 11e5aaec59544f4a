"""Batches of the cost measurement hold every record once, in the order of its lane."""

from hypothesis import given
from hypothesis import strategies as st

from bench.postgres_cost import batches
from sluice.kafka_io.record_types import Record

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@given(sizes=sizes, batch_events=st.integers(1, 50))
def test_batches_hold_every_record_once_and_in_order(sizes: list[int], batch_events: int) -> None:
    lanes = [[Record(offset, 0, b"k", b"v", []) for offset in range(size)] for size in sizes]
    read: list[list[Record]] = [[] for _ in lanes]
    for batch in batches(lanes, batch_events):
        assert 0 < sum(map(len, batch)) <= max(batch_events, len(lanes))
        for lane, part in enumerate(batch):
            read[lane].extend(part)
    assert read == lanes
