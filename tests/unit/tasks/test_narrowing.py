"""The limit of the events in one transaction after failures, and the end of this limit."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.db.apply.guard import QueueFailures
from sluice.tasks.apply.narrowing import FAILURES, WIDEST, after_failure, after_success

HERE, THERE = ("orders", 0, 7), ("orders", 0, 9)


def failed(times: int, events: int, before: QueueFailures | None = None) -> QueueFailures:
    """Returns the state after `times` failures at HERE, each with as many events as the limit allows."""
    for _ in range(times):
        limit = before.batch_limit if before is not None else None
        before = after_failure(before, HERE, events if limit is None else limit)
    assert before is not None
    return before


def test_five_failures_at_one_event_set_no_limit() -> None:
    assert failed(FAILURES, 200) == QueueFailures(*HERE, FAILURES, None)


def test_each_further_failure_halves_the_batch_down_to_one_event() -> None:
    limits = [failed(FAILURES + n, 200).batch_limit for n in range(1, 10)]
    assert limits == [100, 50, 25, 12, 6, 3, 1, 1, 1]


def test_a_failure_at_another_event_restarts_the_count_at_one() -> None:
    assert after_failure(failed(FAILURES, 200), THERE, 200) == QueueFailures(*THERE, 1, None)


def test_a_failure_halves_an_existing_limit_at_any_event() -> None:
    assert after_failure(QueueFailures(*HERE, 0, 50), THERE, 50) == QueueFailures(*THERE, 1, 25)


def test_a_success_without_a_limit_ends_the_count() -> None:
    assert after_success(failed(3, 200)) is None


def test_each_success_doubles_the_limit_until_the_limit_is_removed() -> None:
    left: QueueFailures | None = QueueFailures(*HERE, 9, 1)
    limits = []
    while left is not None:
        limits.append(left.batch_limit)
        left = after_success(left)
    assert limits == [1, 2, 4, 8, 16, 32, 64, 128]


@given(events=st.integers(1, 10_000), outcomes=st.lists(st.booleans(), max_size=60))
def test_the_limit_is_at_least_one_and_never_larger_than_a_batch(events: int, outcomes: list[bool]) -> None:
    state: QueueFailures | None = None
    for succeeds in outcomes:
        tried = min(events, (state.batch_limit if state else None) or events)
        state = (state and after_success(state)) if succeeds else after_failure(state, HERE, tried)
        assert state is None or state.batch_limit is None or 1 <= state.batch_limit <= max(events, WIDEST)
