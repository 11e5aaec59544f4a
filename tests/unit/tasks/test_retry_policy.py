"""After a failed attempt to apply a batch, the error decides the next step. The attempts end at a limit."""

import psycopg2
import pytest

from sluice.db.errors import DeploymentBroken, RowsChanged, WriteSuppressed
from sluice.tasks.apply.retry_policy import PATIENCE_SECONDS, Step, Tries, counts
from tests.unit.db.test_errors import Answer

AGAIN, SINGLY, HALT, GIVE_UP = Step.AGAIN, Step.SINGLY, Step.HALT, Step.GIVE_UP
LOST = psycopg2.OperationalError("server closed the connection")
CHANGED, DEADLOCK, HELD = RowsChanged("another writer"), Answer("40P01"), Answer("55P03")
CANCELED, STALE_PLAN, UNIQUE, MISSING = Answer("57014"), Answer("0A000"), Answer("23505"), Answer("42P01")

CASES: list[tuple[str, list[Exception], list[Step]]] = [
    ("a lost connection", [LOST] * 9, [AGAIN] * 9),
    ("a deadlock", [DEADLOCK], [AGAIN]),
    ("another writer changed rows five times", [CHANGED] * 6, [AGAIN] * 4 + [SINGLY] * 2),
    ("a statement was canceled twice", [CANCELED, CANCELED], [AGAIN, SINGLY]),
    ("a locked row twice", [HELD, HELD], [AGAIN, SINGLY]),
    ("a time-out and a locked row", [CANCELED, HELD], [AGAIN, SINGLY]),
    ("a write that was suppressed", [WriteSuppressed("t", 0, 1)], [SINGLY]),
    ("a stale plan once", [STALE_PLAN], [AGAIN]),
    ("a stale plan twice", [STALE_PLAN, STALE_PLAN], [AGAIN, HALT]),
    ("stale plans of both kinds", [STALE_PLAN, Answer("26000")], [AGAIN, HALT]),
    ("a refusal", [UNIQUE], [SINGLY]),
    ("a refusal, then a refusal of one event", [UNIQUE, UNIQUE], [SINGLY, HALT]),
    ("a refusal, then a lost connection", [UNIQUE, LOST], [SINGLY, AGAIN]),
    ("a missing table", [MISSING], [HALT]),
    ("a broken deployment", [DeploymentBroken("undeclared")], [HALT]),
    ("a bug", [KeyError("x")], [HALT]),
]


@pytest.mark.parametrize(("errors", "steps"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_each_sequence_of_errors_leads_to_the_expected_steps(
    errors: list[Exception], steps: list[Step]
) -> None:
    tries = Tries()
    assert [tries.after(error, elapsed_seconds=0) for error in errors] == steps
    assert tries.singly == (SINGLY in steps)


@pytest.mark.parametrize("error", [LOST, DEADLOCK, CHANGED, CANCELED, STALE_PLAN, UNIQUE], ids=repr)
def test_the_attempts_end_after_the_patience(error: Exception) -> None:
    assert Tries().after(error, elapsed_seconds=PATIENCE_SECONDS + 1) is GIVE_UP


def test_a_broken_deployment_halts_the_queue_even_after_the_patience() -> None:
    assert Tries().after(MISSING, elapsed_seconds=PATIENCE_SECONDS + 1) is HALT


@pytest.mark.parametrize(
    ("attempts", "jitter", "seconds"),
    [(1, 0, 0.1), (1, 0.5, 0.075), (2, 0, 0.2), (5, 0, 1.6), (6, 0, 2), (10_000, 0, 2), (10_000, 1, 1)],
)
def test_the_pause_doubles_up_to_two_seconds(attempts: int, jitter: float, seconds: float) -> None:
    assert Tries(attempts=attempts).pause_seconds(jitter) == pytest.approx(seconds)


def test_only_an_error_with_a_further_attempt_has_a_pause() -> None:
    assert Tries().pause_after(LOST, 0, 0) == 0.1
    assert Tries().pause_after(UNIQUE, 0, 0) == 0, "time does not change a refusal"
    assert Tries().pause_after(LOST, PATIENCE_SECONDS + 1, 0.5) is None
    assert Tries().pause_after(MISSING, 0, 0.5) is None


@pytest.mark.parametrize(
    ("error", "counted"),
    [(DEADLOCK, True), (CHANGED, True), (CANCELED, True), (HELD, True), (STALE_PLAN, True),
     (LOST, False), (UNIQUE, False), (MISSING, False), (KeyError("x"), False)],
    ids=repr,
)  # fmt: skip
def test_only_failures_that_a_smaller_batch_may_avoid_are_counted(error: Exception, counted: bool) -> None:
    assert counts(error) is counted


def test_if_the_code_declares_projections_events_are_tried_one_by_one_before_the_queue_halts() -> None:
    tries = Tries(contains=True)
    assert tries.after(MISSING, elapsed_seconds=0) is SINGLY
    assert tries.after(MISSING, elapsed_seconds=0) is HALT
    assert Tries(contains=True).after(DeploymentBroken("no row"), elapsed_seconds=0) is HALT
