"""Deaths in numbers: when they mean that the deployment is wrong."""

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
    ("nothing", "", "", 0, BreakerState("", 0, False)),
    ("19 deaths of 19", "", "x" * 19, 0, BreakerState("x" * 19, 0, False)),
    ("20 deaths of 20", "", "x" * 20, 0, BreakerState("x" * 20, 0, True)),
    (
        "20 deaths of 40: half is not over half",
        "." * 20,
        "x" * 20,
        0,
        BreakerState("." * 20 + "x" * 20, 0, False),
    ),
    ("21 deaths of 41", "." * 20, "x" * 21, 0, BreakerState("." * 20 + "x" * 21, 0, True)),
    ("the last straw", "x" * 19, "x", 0, BreakerState("x" * 20, 0, True)),
    ("a batch without deaths never halts", "x" * 199, ".", 0, BreakerState("x" * 199 + ".", 0, False)),
    ("old results are forgotten", "x" * 150, "." * 200, 0, BreakerState("." * 200, 0, False)),
    ("accepted deaths leave no trace", "." * 5, "x." * 20, 20, BreakerState("." * 25, 0, False)),
    ("accepted deaths are spent", "", "x" * 5, 7, BreakerState("", 2, False)),
    ("more deaths than accepted", "", "x" * 25, 5, BreakerState("x" * 20, 0, True)),
]


@pytest.mark.parametrize(
    ("recent", "batch", "accepted", "verdict"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_verdict(recent: str, batch: str, accepted: int, verdict: BreakerState) -> None:
    assert judge_batch(recent, batch, accepted) == verdict


results = st.text(st.sampled_from((SUCCEEDED, FAILED, FAILED)), max_size=WINDOW)


@given(results, results, st.integers(0, 300))
def test_laws(recent: str, batch: str, accepted: int) -> None:
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
def test_the_window_does_not_depend_on_how_the_events_were_batched(
    recent: str, batches: list[str], accepted: int
) -> None:
    one = judge_batch(recent, "".join(batches), accepted)
    window, left = recent, accepted
    for batch in batches:
        verdict = judge_batch(window, batch, left)
        window, left = verdict.failure_window, verdict.accepted_deaths
    assert left == one.accepted_deaths
    assert window == one.failure_window[-len(window) :] if window else one.failure_window == ""
