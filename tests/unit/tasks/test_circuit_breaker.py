"""Deaths in numbers: when they mean that the deployment is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.tasks.apply.circuit_breaker import DIED, FEWEST_DEATHS, LIVED, WINDOW, Verdict, judge_fates

CASES = [
    ("nothing", "", "", 0, Verdict("", 0, False)),
    ("19 deaths of 19", "", "x" * 19, 0, Verdict("x" * 19, 0, False)),
    ("20 deaths of 20", "", "x" * 20, 0, Verdict("x" * 20, 0, True)),
    ("20 deaths of 40: half is not over half", "." * 20, "x" * 20, 0, Verdict("." * 20 + "x" * 20, 0, False)),
    ("21 deaths of 41", "." * 20, "x" * 21, 0, Verdict("." * 20 + "x" * 21, 0, True)),
    ("the last straw", "x" * 19, "x", 0, Verdict("x" * 20, 0, True)),
    ("a batch without deaths never halts", "x" * 199, ".", 0, Verdict("x" * 199 + ".", 0, False)),
    ("old fates are forgotten", "x" * 150, "." * 200, 0, Verdict("." * 200, 0, False)),
    ("accepted deaths leave no trace", "." * 5, "x." * 20, 20, Verdict("." * 25, 0, False)),
    ("accepted deaths are spent", "", "x" * 5, 7, Verdict("", 2, False)),
    ("more deaths than accepted", "", "x" * 25, 5, Verdict("x" * 20, 0, True)),
]


@pytest.mark.parametrize(
    ("recent", "batch", "accepted", "verdict"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_verdict(recent: str, batch: str, accepted: int, verdict: Verdict) -> None:
    assert judge_fates(recent, batch, accepted) == verdict


fates = st.text(st.sampled_from((LIVED, DIED, DIED)), max_size=WINDOW)


@given(fates, fates, st.integers(0, 300))
def test_laws(recent: str, batch: str, accepted: int) -> None:
    verdict = judge_fates(recent, batch, accepted)
    deaths = verdict.recent_fates.count(DIED)
    assert len(verdict.recent_fates) <= WINDOW
    assert 0 <= verdict.accepted_deaths <= accepted
    if verdict.halts:
        assert deaths >= FEWEST_DEATHS
        assert deaths * 2 > len(verdict.recent_fates)
        assert batch.count(DIED) > accepted
    if batch.count(DIED) <= accepted:
        assert not verdict.halts
        assert verdict.recent_fates.count(DIED) <= recent.count(DIED)


@given(fates, st.lists(fates, max_size=4), st.integers(0, 50))
def test_the_window_does_not_depend_on_how_the_events_were_batched(
    recent: str, batches: list[str], accepted: int
) -> None:
    one = judge_fates(recent, "".join(batches), accepted)
    window, left = recent, accepted
    for batch in batches:
        verdict = judge_fates(window, batch, left)
        window, left = verdict.recent_fates, verdict.accepted_deaths
    assert left == one.accepted_deaths
    assert window == one.recent_fates[-len(window) :] if window else one.recent_fates == ""
