"""What becomes of a call: every line of both decisions, and what no chain of them can do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.records import CallState
from sluice.tasks.api import EffectDeclaration
from sluice.tasks.effects.call_states import (
    Claim,
    Ending,
    NextState,
    Tried,
    judge_claim,
    judge_ending,
    pause_seconds,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RETRY = EffectDeclaration("pay", "retry", 10, 3, 3_600, holds=False)
ASK = EffectDeclaration("mail", "ask", 10, 3, None, holds=False)
DUE = Tried(CallState.PENDING, 0, False, None, NOW, NOW)
DOUBTFUL = replace(DUE, tried=1, ended_unknown=True)


def tried_before(seconds: float) -> Tried:
    """An attempt ended unknown; the first one began so long ago."""
    return replace(DOUBTFUL, first_attempt_at=NOW - timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("call", "policy", "behind", "paused", "claim"),
    [
        (DUE, RETRY, False, False, Claim.RUN),
        (DUE, ASK, False, False, Claim.RUN),
        *((replace(DUE, state=state), RETRY, False, False, Claim.LEAVE) for state in tuple(CallState)[1:]),
        (replace(DUE, due_at=NOW + timedelta(microseconds=1)), RETRY, False, False, Claim.LEAVE),
        (DUE, RETRY, True, False, Claim.LEAVE),
        (DUE, RETRY, False, True, Claim.LEAVE),
        # The key is honoured for 3,600 s; an attempt may take 10 of them.
        (tried_before(0), RETRY, False, False, Claim.RUN),
        (tried_before(3_589.999999), RETRY, False, False, Claim.RUN),
        (tried_before(3_590), RETRY, False, False, Claim.GIVE_UP),
        (tried_before(9_999), RETRY, False, False, Claim.GIVE_UP),
        # No attempt left a key behind: however long ago the first one was.
        (replace(tried_before(9_999), ended_unknown=False), RETRY, False, False, Claim.RUN),
        (replace(tried_before(9_999), ended_unknown=False), ASK, False, False, Claim.RUN),
        (DOUBTFUL, RETRY, False, False, Claim.GIVE_UP),  # and nobody knows since when
        (tried_before(0), replace(RETRY, key_lifetime_seconds=None), False, False, Claim.GIVE_UP),
        # Another policy since: the key is worth nothing here.
        (tried_before(0), ASK, False, False, Claim.GIVE_UP),
        # Giving up waits for its turn, too.
        (tried_before(9_999), RETRY, True, False, Claim.LEAVE),
        (tried_before(9_999), RETRY, False, True, Claim.LEAVE),
        (replace(tried_before(9_999), due_at=NOW + timedelta(seconds=1)), RETRY, False, False, Claim.LEAVE),
    ],
)  # fmt: skip
def test_an_attempt_begins_if_it_is_due_first_and_harmless(
    call: Tried, policy: EffectDeclaration, behind: bool, paused: bool, claim: Claim
) -> None:
    assert judge_claim(call, policy, behind=behind, paused=paused) is claim


PENDING, FAILED, UNCERTAIN = CallState.PENDING, CallState.FAILED, CallState.UNCERTAIN


@pytest.mark.parametrize(
    ("ending", "policy", "tried", "doubtful_before", "state", "doubtful_now"),
    [
        (Ending.NOT_SENT, RETRY, 1, False, PENDING, False),
        (Ending.NOT_SENT, ASK, 1, False, PENDING, False),
        (Ending.NOT_SENT, RETRY, 2, True, PENDING, False),
        (Ending.NOT_SENT, RETRY, 3, False, FAILED, False),
        (Ending.NOT_SENT, RETRY, 3, True, UNCERTAIN, False),
        (Ending.NOT_SENT, RETRY, 4, False, FAILED, False),
        (Ending.REFUSED, RETRY, 1, False, FAILED, False),
        (Ending.REFUSED, ASK, 1, False, FAILED, False),
        (Ending.REFUSED, RETRY, 1, True, UNCERTAIN, False),
        (Ending.UNKNOWN, RETRY, 1, False, PENDING, True),
        (Ending.UNKNOWN, RETRY, 2, True, PENDING, True),
        (Ending.UNKNOWN, RETRY, 3, False, UNCERTAIN, True),
        (Ending.UNKNOWN, ASK, 1, False, UNCERTAIN, True),
        (Ending.UNKNOWN, ASK, 3, False, UNCERTAIN, True),
    ],
)
def test_what_follows_an_attempt_without_success(
    ending: Ending,
    policy: EffectDeclaration,
    tried: int,
    doubtful_before: bool,
    state: CallState,
    doubtful_now: bool,
) -> None:
    call = replace(DUE, state=CallState.RUNNING, tried=tried, ended_unknown=doubtful_before)
    due = pause_seconds(tried, 0.5) if state is PENDING else 0.0
    assert judge_ending(call, policy, ending, jitter=0.5) == NextState(state, due, doubtful_now)


@pytest.mark.parametrize(
    ("tried", "jitter", "seconds"),
    [(0, 1, 1), (1, 1, 1), (1, 0, 2), (2, 1, 2), (9, 1, 256), (9, 0, 512), (10, 1, 300), (32_767, 0, 600)],
)
def test_the_pause_doubles_to_ten_minutes(tried: int, jitter: float, seconds: float) -> None:
    assert pause_seconds(tried, jitter) == seconds


endings = st.lists(st.sampled_from(Ending), min_size=1, max_size=8)
policies = st.builds(
    EffectDeclaration,
    st.just("e"),
    st.sampled_from(("retry", "ask")),
    st.floats(0.1, 60),
    st.integers(1, 6),
    st.none() | st.floats(1, 5_000),
    st.booleans(),
)
jitters = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 32_767), jitters)
def test_a_pause_is_within_one_second_and_ten_minutes(tried: int, jitter: float) -> None:
    assert 1 <= pause_seconds(tried, jitter) <= 600


@given(policies, endings, jitters, st.integers(0, 5_000))
def test_no_chain_of_attempts_forgets_a_doubt(
    policy: EffectDeclaration, chain: list[Ending], jitter: float, wait_seconds: int
) -> None:
    call, began, unknown_before = DUE, 0, False
    for ending in chain:
        claim = judge_claim(call, policy, behind=False, paused=False)
        if claim is Claim.GIVE_UP:
            assert unknown_before
            break
        assert claim is Claim.RUN
        # Never again by itself once nobody knows, unless the provider still honours the key.
        if unknown_before:
            assert policy.on_unknown == "retry"
            assert policy.key_lifetime_seconds is not None
            assert call.first_attempt_at is not None
            age = (call.now - call.first_attempt_at).total_seconds()
            assert age + policy.timeout_seconds < policy.key_lifetime_seconds + 1e-3
        began += 1
        running = replace(
            call, state=CallState.RUNNING, tried=began, first_attempt_at=call.first_attempt_at or call.now
        )
        following = judge_ending(running, policy, ending, jitter=jitter)
        unknown_before = unknown_before or ending is Ending.UNKNOWN
        if following.state is not CallState.PENDING:
            assert following.state is (UNCERTAIN if unknown_before else FAILED)
            break
        assert ending is not Ending.REFUSED
        assert began < policy.attempts
        due_at = call.now + timedelta(seconds=following.due_in_seconds)
        call = replace(
            running,
            state=PENDING,
            ended_unknown=running.ended_unknown or following.ended_unknown,
            due_at=due_at,
            now=due_at + timedelta(seconds=wait_seconds),
        )
    assert began <= policy.attempts
