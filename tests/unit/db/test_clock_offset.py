"""The difference between two clocks, measured by one request."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.db.delivery.living_processes import certain_offset

SECONDS = st.integers(-7_200, 7_200)


@given(offset=SECONDS, way=st.integers(0, 20), back=st.integers(0, 20))
def test_the_measured_offset_is_never_too_large_and_its_error_is_at_most_the_round_trip(
    offset: int, way: int, back: int
) -> None:
    there = 1_000_000.0
    found = certain_offset(there + offset - way, there, there + offset + back)
    assert 0 <= found <= offset or offset <= found <= 0
    assert abs(offset - found) <= way + back
