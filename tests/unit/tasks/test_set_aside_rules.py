"""Events that are set aside, which means that they wait and are retried while other events continue."""

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.records import RetryKind
from sluice.tasks.apply.set_aside_rules import CommitCounts, RetryBudget, RetryLimits, kind_of


class PostgresError(psycopg2.Error):
    """An error with a SQLSTATE."""

    def __init__(self, code: str | None) -> None:
        super().__init__(code)
        self.code = code

    @property
    def pgcode(self) -> str | None:  # type: ignore[override]
        return self.code


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("57014", RetryKind.TIMED_OUT),
        ("25P03", RetryKind.TIMED_OUT),
        ("25P04", RetryKind.TIMED_OUT),
        ("55P03", RetryKind.ROW_HELD),
        ("53100", RetryKind.UNAVAILABLE),
        ("40P01", RetryKind.UNAVAILABLE),
        (None, RetryKind.UNAVAILABLE),
    ],
)
def test_the_sqlstate_determines_why_an_event_is_set_aside(code: str | None, kind: RetryKind) -> None:
    assert kind_of(PostgresError(code)) is kind


def test_pauses_double_up_to_the_longest_pause() -> None:
    limits = RetryLimits()
    assert [limits.pause_seconds(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(
    st.lists(st.tuples(st.floats(0.001, 10), st.floats(0, 20)), min_size=1, max_size=30),
    st.sampled_from([0.01, 0.1, 0.5]),
)
def test_retries_take_at_most_their_share_of_the_time(turns: list[tuple[float, float]], share: float) -> None:
    """Simulates a clock: in each turn, a retry runs if the budget allows it; then other work runs."""
    budget, now, spent = RetryBudget(share), 0.0, 0.0
    for seconds, other_seconds in turns:
        if budget.allows(now):
            # The first retry may begin at once; each later retry begins only within the share.
            assert spent <= share * now * 1.000001
            budget.note(now, now + seconds)
            spent, now = spent + seconds, now + seconds
        now += other_seconds


def test_the_budget_allows_a_retry_again_after_a_pause() -> None:
    budget = RetryBudget(0.1)
    assert budget.allows(100.0)
    budget.note(100.0, 105.0)
    assert not budget.allows(149.9)
    assert budget.allows(150.1)


def test_a_time_out_counts_only_after_a_commit_of_other_events() -> None:
    counts = CommitCounts()
    assert not counts.counts("q", 1)
    counts.note_committed("q")
    assert counts.counts("q", 1)
    # A commit counts one time for each letter.
    assert not counts.counts("q", 1)


def test_commits_of_other_queues_are_not_counted() -> None:
    counts = CommitCounts()
    counts.note_committed("other")
    assert not counts.counts("q", 1)


def test_a_time_out_does_not_count_if_a_batch_timed_out_after_the_commit() -> None:
    counts = CommitCounts()
    counts.note_committed("q")
    counts.note_timed_out("q")
    assert not counts.counts("q", 1)
    counts.note_committed("q")
    assert counts.counts("q", 1)


def test_each_letter_is_counted_separately() -> None:
    counts = CommitCounts()
    counts.note_committed("q")
    assert counts.counts("q", 1)
    assert counts.counts("q", 2)
    counts.forget(1)
    assert counts.counts("q", 1)
