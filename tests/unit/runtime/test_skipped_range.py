"""Ranges of offsets that an operator skipped."""

from hypothesis import example, given
from hypothesis import strategies as st

from sluice.runtime.skipped_range import SkippedRange, next_unskipped

RANGES = st.lists(
    st.builds(lambda first, more: SkippedRange(first, first + more), st.integers(0, 9), st.integers(0, 4)),
    max_size=5,
)


@given(RANGES, st.integers(0, 10))
@example([SkippedRange(5, 9), SkippedRange(3, 5)], 3)
def test_reading_continues_at_the_first_offset_that_is_not_skipped(
    ranges: list[SkippedRange], offset: int
) -> None:
    skipped = {number for first, last in ranges for number in range(first, last + 1)}
    expected = next(number for number in range(offset, 200) if number not in skipped)
    assert next_unskipped(ranges, offset) == expected
