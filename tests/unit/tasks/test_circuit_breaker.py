"""The circuit breaker of a queue: the numbers of failed events that halt the queue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.tasks.apply.circuit_breaker import (
    FAILED,
    FEWEST_DEATHS,
    SUCCEEDED,
    WINDOW,
    BreakerState,
    judge_batch,
)

CASES = [
    ("no events", "", "", 0, BreakerState("", 0, False)),
    ("19 of 19 events fail", "", "x" * 19, 0, BreakerState("x" * 19, 0, False)),
    ("20 of 20 events fail", "", "x" * 20, 0, BreakerState("x" * 20, 0, True)),
    (
        "20 of 40 events fail: not more than half",
        "." * 20,
        "x" * 20,
        0,
        BreakerState("." * 20 + "x" * 20, 0, False),
    ),
    ("21 of 41 events fail", "." * 20, "x" * 21, 0, BreakerState("." * 20 + "x" * 21, 0, True)),
    ("one more failure after 19", "x" * 19, "x", 0, BreakerState("x" * 20, 0, True)),
    ("a batch without failures never halts", "x" * 199, ".", 0, BreakerState("x" * 199 + ".", 0, False)),
    ("old results are forgotten", "x" * 150, "." * 200, 0, BreakerState("." * 200, 0, False)),
    ("accepted failures are not in the window", "." * 5, "x." * 20, 20, BreakerState("." * 25, 0, False)),
    ("accepted failures are used up", "", "x" * 5, 7, BreakerState("", 2, False)),
    ("more failures than accepted", "", "x" * 25, 5, BreakerState("x" * 20, 0, True)),
]


@pytest.mark.parametrize(
    ("recent", "batch", "accepted", "verdict"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_a_batch_changes_the_window_and_may_halt_the_queue(
    recent: str, batch: str, accepted: int, verdict: BreakerState
) -> None:
    assert judge_batch(recent, batch, accepted) == verdict


results = st.text(st.sampled_from((SUCCEEDED, FAILED, FAILED)), max_size=WINDOW)


@given(results, results, st.integers(0, 300))
def test_the_queue_halts_only_after_many_failures_that_are_not_accepted(
    recent: str, batch: str, accepted: int
) -> None:
    verdict = judge_batch(recent, batch, accepted)
    deaths = verdict.failure_window.count(FAILED)
    assert len(verdict.failure_window) <= WINDOW
    assert 0 <= verdict.accepted_deaths <= accepted
    if verdict.halts:
        assert deaths >= FEWEST_DEATHS
        assert deaths * 2 > len(verdict.failure_window)
        assert batch.count(FAILED) > accepted
    if batch.count(FAILED) <= accepted:
        assert not verdict.halts
        assert verdict.failure_window.count(FAILED) <= recent.count(FAILED)


@given(results, st.lists(results, max_size=4), st.integers(0, 50))
def test_the_window_does_not_depend_on_the_batches(recent: str, batches: list[str], accepted: int) -> None:
    one = judge_batch(recent, "".join(batches), accepted)
    window, left = recent, accepted
    for batch in batches:
        verdict = judge_batch(window, batch, left)
        window, left = verdict.failure_window, verdict.accepted_deaths
    assert left == one.accepted_deaths
    assert window == one.failure_window[-len(window) :] if window else one.failure_window == ""
