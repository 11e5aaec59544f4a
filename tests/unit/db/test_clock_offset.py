"""The difference of two clocks, as one question shows it."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.db.delivery.living_processes import certain_offset

SECONDS = st.integers(-7_200, 7_200)


@given(offset=SECONDS, way=st.integers(0, 20), back=st.integers(0, 20))
def test_it_is_never_more_than_the_real_one_and_less_by_no_more_than_the_ways(
    offset: int, way: int, back: int
) -> None:
    there = 1_000_000.0
    found = certain_offset(there + offset - way, there, there + offset + back)
    assert 0 <= found <= offset or offset <= found <= 0
    assert abs(offset - found) <= way + back
