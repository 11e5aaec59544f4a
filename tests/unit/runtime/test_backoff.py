"""Pauses after failures double up to a bound. Jitter shortens a pause by at most half."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime.backoff import Backoff, Backoffs, backoff_seconds

FIRST_SECONDS = st.floats(0.01, 10)
RATIO = st.floats(1, 1_000_000)  # longest pause divided by first pause
ATTEMPTS = st.integers(0, 1_000_000)
JITTER = st.floats(0, 1, exclude_max=True)


@given(FIRST_SECONDS, RATIO, ATTEMPTS, JITTER)
def test_a_pause_is_bounded_and_never_shrinks(
    first_seconds: float, ratio: float, attempt: int, jitter: float
) -> None:
    longest_seconds = first_seconds * ratio
    whole = backoff_seconds(first_seconds, longest_seconds, attempt)
    following = backoff_seconds(first_seconds, longest_seconds, attempt + 1)
    assert first_seconds <= whole <= following <= min(longest_seconds, 2 * whole)
    assert whole / 2 <= backoff_seconds(first_seconds, longest_seconds, attempt, jitter) <= whole
    assert backoff_seconds(first_seconds, longest_seconds, attempt + 30) == longest_seconds


@given(FIRST_SECONDS, st.integers(2, 20))
def test_a_pause_below_the_bound_is_twice_the_previous_pause(first_seconds: float, attempt: int) -> None:
    longest_seconds = first_seconds * 2**20
    whole = backoff_seconds(first_seconds, longest_seconds, attempt)
    assert whole == pytest.approx(2 * backoff_seconds(first_seconds, longest_seconds, attempt - 1))


def test_backoff_doubles_up_to_a_bound_and_a_success_resets_it() -> None:
    backoff, now, waits = Backoff(), 100.0, []
    for _ in range(7):
        backoff.note_failure(now)
        assert not backoff.allows(now)
        waits.append(next(n / 10 for n in range(100) if backoff.allows(now + n / 10 + 1e-9)))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff.note_success()
    assert not backoff.note_success()
    assert backoff.note_failure(now)


def test_a_failure_is_logged_at_once_and_then_every_minute() -> None:
    backoff = Backoff()
    logged = [second for second in range(200) if backoff.note_failure(float(second))]
    assert logged == [0, 60, 120, 180]
    backoff.note_success()
    assert backoff.note_failure(200.0)


def test_each_service_has_its_own_backoff() -> None:
    backoffs: Backoffs[str] = Backoffs()
    assert backoffs.note_failure("a", 0.0)
    assert not backoffs.note_failure("a", 0.0)
    assert (backoffs.allows("a", 0.01), backoffs.allows("b", 0.01)) == (False, True)
    backoffs.note_success("a")
    assert backoffs.allows("a", 0.01)
    assert backoffs.note_failure("a", 0.0)
