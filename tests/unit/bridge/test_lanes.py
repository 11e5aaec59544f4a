"""The slices of a lane form a chain: each starts where the records before it end."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.bridge.lanes import Lane
from sluice.bridge.queue_buffer import FULL_BYTES
from sluice.kafka_io.record_types import size_bytes
from tests.unit.bridge.bridging import ORIGIN, record


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.lists(st.sampled_from(["add", "send", "apply", "rewind"]), max_size=40),
)
def test_slices_start_after_the_applied_offset_and_skip_no_record(gaps: list[int], steps: list[str]) -> None:
    """After any steps, sent and unsent records together are the lane's unapplied records, in order."""
    lane, log, offset = Lane(ORIGIN, -1), list[int](), 0
    for number, step in enumerate(steps):
        if step == "add":
            offset += 1 + (gaps[number % len(gaps)] if gaps else 0)
            log.append(offset)
            lane.add([record(offset)])
        elif step == "send" and lane.unsent:
            records, used = lane.head(2, FULL_BYTES)
            part = lane.slice_of(records)
            assert [o for o in log if part.prev < o <= part.last] == [r.offset for r in part.records]
            lane.note_sent(len(records), used, 0.0)
        elif step == "apply" and lane.sent:
            lane.advance(next(lane.held()).offset, 0.0)
        elif step == "rewind":
            lane.rewind()
        assert [r.offset for r in lane.held()] == [o for o in log if o > lane.applied]
        assert lane.unsent_bytes == sum(size_bytes(r) for r in list(lane.held())[len(lane.sent) :])


def test_a_lane_that_another_bridge_advanced_continues_after_the_new_offset() -> None:
    lane = Lane(ORIGIN, 5)
    lane.add([record(n) for n in (4, 5, 6, 9)])
    lane.advance(6, 0.0)
    assert lane.slice_of([record(9)]).prev == 6
    lane.add([record(10)])
    assert [r.offset for r in lane.held()] == [9, 10]
