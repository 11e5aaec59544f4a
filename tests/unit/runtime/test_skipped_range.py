"""Offsets that an operator skipped."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime.skipped_range import SkippedRange, next_unskipped

RANGES = st.lists(
    st.builds(lambda first, more: SkippedRange(first, first + more), st.integers(0, 40), st.integers(0, 9)),
    max_size=6,
)


@given(RANGES, st.integers(0, 50))
def test_reading_goes_on_at_the_first_offset_that_is_not_skipped(
    ranges: list[SkippedRange], offset: int
) -> None:
    skipped = {number for first, last in ranges for number in range(first, last + 1)}
    expected = next(number for number in range(offset, 200) if number not in skipped)
    assert next_unskipped(ranges, offset) == expected
