"""Retrying an operation that is not possible at the moment."""

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.operation_wait import NotYet, until_possible


class Attempts:
    """An operation that becomes possible after `failures` attempts. Only `sleep` advances its clock."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls = 0
        self.now = 0.0
        self.reasons: list[str] = []

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise NotYet(f"reason {self.calls}", "Check the workers.")
        return "done"

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, patience_seconds: float) -> str:
        return until_possible(
            self, patience_seconds, waiting=self.reasons.append, clock=lambda: self.now, sleep=self.sleep
        )


def test_an_operation_is_retried_until_it_is_possible() -> None:
    attempts = Attempts(failures=3)
    assert attempts.run(30) == "done"
    assert attempts.calls == 4


def test_the_reason_is_reported_at_intervals_and_not_at_each_attempt() -> None:
    attempts = Attempts(failures=30)
    attempts.run(30)
    assert attempts.reasons[0] == "reason 1"
    assert 3 <= len(attempts.reasons) <= 4


def test_the_refusal_after_the_patience_gives_the_last_reason_and_the_advice() -> None:
    attempts = Attempts(failures=1_000)
    with pytest.raises(
        OperationRefused, match=r"after 1 s reason \d+: nothing was changed. Check the workers"
    ):
        attempts.run(1)
    assert 1 <= attempts.now <= 1.5


def test_without_patience_there_is_one_attempt() -> None:
    attempts = Attempts(failures=1)
    with pytest.raises(OperationRefused):
        attempts.run(0)
    assert (attempts.calls, attempts.now) == (1, 0)


def test_another_error_is_not_retried() -> None:
    def refuse() -> None:
        raise OperationRefused("no")

    with pytest.raises(OperationRefused, match=r"^no$"):
        until_possible(refuse, 30)
