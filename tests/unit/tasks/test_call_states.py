"""Tests when an attempt of a call may begin, the state after it, and rules for every chain of attempts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

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
    read_retry_after,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RETRY = EffectDeclaration("pay", "retry", 10, 3, 3_600, holds=False)
ASK = EffectDeclaration("mail", "ask", 10, 3, None, holds=False)
DUE = Tried(CallState.PENDING, 0, False, None, NOW, NOW)
DOUBTFUL = replace(DUE, tried=1, ended_unknown=True)


def tried_before(seconds: float) -> Tried:
    """Returns a call with an attempt of unknown outcome, whose first attempt began `seconds` ago."""
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
        # The provider honours the key for 3,600 s, and an attempt may take 10 s.
        (tried_before(0), RETRY, False, False, Claim.RUN),
        (tried_before(3_589.999999), RETRY, False, False, Claim.RUN),
        (tried_before(3_590), RETRY, False, False, Claim.GIVE_UP),
        (tried_before(9_999), RETRY, False, False, Claim.GIVE_UP),
        # No attempt may have reached the provider, so the age of the first attempt does not matter.
        (replace(tried_before(9_999), ended_unknown=False), RETRY, False, False, Claim.RUN),
        (replace(tried_before(9_999), ended_unknown=False), ASK, False, False, Claim.RUN),
        (DOUBTFUL, RETRY, False, False, Claim.GIVE_UP),  # the start time of the first attempt is unknown
        (tried_before(0), replace(RETRY, key_lifetime_seconds=None), False, False, Claim.GIVE_UP),
        # The policy changed to "ask", which never repeats a call with the same key.
        (tried_before(0), ASK, False, False, Claim.GIVE_UP),
        # A call fails for good only if it is due, not behind another call, and not paused.
        (tried_before(9_999), RETRY, True, False, Claim.LEAVE),
        (tried_before(9_999), RETRY, False, True, Claim.LEAVE),
        (replace(tried_before(9_999), due_at=NOW + timedelta(seconds=1)), RETRY, False, False, Claim.LEAVE),
    ],
)  # fmt: skip
def test_an_attempt_begins_only_if_the_call_is_due_and_next_and_a_repeat_is_safe(
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
def test_an_unsuccessful_attempt_determines_the_next_state(
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
def test_the_pause_doubles_up_to_ten_minutes(tried: int, jitter: float, seconds: float) -> None:
    assert pause_seconds(tried, jitter) == seconds


@pytest.mark.parametrize("tried", [1, 3, 4, 32_767])
@pytest.mark.parametrize("doubtful", [False, True])
def test_a_call_whose_provider_asks_for_a_pause_stays_pending_and_uses_no_attempt(
    tried: int, doubtful: bool
) -> None:
    call = replace(DUE, state=CallState.RUNNING, tried=tried, ended_unknown=doubtful)
    following = judge_ending(call, RETRY, Ending.NOT_SENT, jitter=0.5, retry_after_seconds=30)
    assert following == NextState(PENDING, 30, counts=False)


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.UNKNOWN])
def test_a_requested_pause_counts_only_for_a_call_that_was_not_sent(ending: Ending) -> None:
    call = replace(DUE, state=CallState.RUNNING, tried=1)
    following = judge_ending(call, RETRY, ending, jitter=0.5, retry_after_seconds=30)
    assert following == judge_ending(call, RETRY, ending, jitter=0.5)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (30, 30), (0.5, 1), (0, 1), (-0.0, 1), (1.5, 1.5), (86_399.5, 86_399.5), (86_401, 86_400),
        (float("inf"), 86_400), (10**400, 86_400),
        (timedelta(minutes=2), 120), (timedelta.max, 86_400), (timedelta(0), 1),
        # A value that is not a duration is ignored.
        (None, None), (-1, None), (-0.001, None), (float("-inf"), None), (-(10**400), None),
        (timedelta(seconds=-1), None), (float("nan"), None), ("30", None), (b"30", None), (True, None),
        (Decimal(30), None), ([30], None), (NOW, None),
    ],
)  # fmt: skip
def test_a_pause_is_a_duration_between_a_second_and_a_day(given: Any, seconds: float | None) -> None:
    assert read_retry_after(given) == seconds


endings = st.lists(
    st.tuples(st.sampled_from(Ending), st.none() | st.floats(1, 86_400)), min_size=1, max_size=8
)
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
def test_a_chain_of_attempts_never_forgets_an_unknown_outcome(
    policy: EffectDeclaration, chain: list[tuple[Ending, float | None]], jitter: float, wait_seconds: int
) -> None:
    call, counted, unknown_before = DUE, 0, False
    for ending, retry_after in chain:
        claim = judge_claim(call, policy, behind=False, paused=False)
        if claim is Claim.GIVE_UP:
            assert unknown_before
            break
        assert claim is Claim.RUN
        # After an unknown outcome, a call is repeated only while the provider still honours the key.
        if unknown_before:
            assert policy.on_unknown == "retry"
            assert policy.key_lifetime_seconds is not None
            assert call.first_attempt_at is not None
            age = (call.now - call.first_attempt_at).total_seconds()
            assert age + policy.timeout_seconds < policy.key_lifetime_seconds + 1e-3
        counted += 1
        running = replace(
            call, state=CallState.RUNNING, tried=counted, first_attempt_at=call.first_attempt_at or call.now
        )
        following = judge_ending(running, policy, ending, jitter=jitter, retry_after_seconds=retry_after)
        unknown_before = unknown_before or ending is Ending.UNKNOWN
        if following.state is not CallState.PENDING:
            assert following.state is (UNCERTAIN if unknown_before else FAILED)
            break
        assert ending is not Ending.REFUSED
        assert following.counts == (ending is not Ending.NOT_SENT or retry_after is None)
        if following.counts:
            assert counted < policy.attempts
        else:
            assert following.due_in_seconds == retry_after
            counted -= 1
        due_at = call.now + timedelta(seconds=following.due_in_seconds)
        # The ledger stores this: the lifetime of a key begins with the first attempt that may have arrived.
        call = replace(
            running,
            state=PENDING,
            tried=counted,
            ended_unknown=unknown_before,
            first_attempt_at=running.first_attempt_at if unknown_before else None,
            due_at=due_at,
            now=due_at + timedelta(seconds=wait_seconds),
        )
    assert counted <= policy.attempts
