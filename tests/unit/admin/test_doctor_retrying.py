"""Tests what `sluice doctor` reports about events that are retried."""

from typing import Any

import pytest

from sluice.admin.doctor.findings import Severity
from sluice.admin.doctor.rules_retrying import MOST_HOLDERS, retrying_problems
from sluice.db.admin.retrying import RetryingEvent
from sluice.db.records import RetryKind

PSQL: dict[str, Any] = {
    "pid": 123,
    "application": "psql",
    "user": "ada",
    "state": "idle in transaction",
    "seconds": 240.0,
    "query": "SELECT *\n  FROM orders FOR UPDATE",
    "is_there": True,
}


def event(number: int = 1, kind: str = RetryKind.ROW_HELD, *blockers: dict[str, Any]) -> RetryingEvent:
    return RetryingEvent(
        number, "order", f"order-{number}", kind, 3, 90.0, "LockNotAvailable: why", list(blockers)
    )


def test_the_session_that_blocks_an_event_is_named() -> None:
    (finding,) = retrying_problems([event(1, RetryKind.ROW_HELD, PSQL)])
    assert finding.severity is Severity.WARNING
    assert finding.problem == (
        "Entity order/order-1 has waited for 90 s for a lock of another session: pid 123, application psql,"
        " user ada, idle in transaction for 4 min, query SELECT * FROM orders FOR UPDATE."
    )
    assert "`SELECT pg_terminate_backend(123)`" in finding.advice


def test_details_of_a_session_that_the_role_may_not_read_are_omitted() -> None:
    hidden = PSQL | {"state": None, "seconds": None, "query": "<insufficient privilege>"}
    (finding,) = retrying_problems([event(1, RetryKind.ROW_HELD, hidden)])
    assert finding.problem.endswith("session: pid 123, application psql, user ada.")
    assert "pg_read_all_stats" in finding.advice


def test_events_that_wait_for_the_same_session_share_one_finding() -> None:
    (finding,) = retrying_problems([event(n, RetryKind.ROW_HELD, PSQL) for n in range(1, 4)])
    assert "Entity order/order-1 (and 2 others)" in finding.problem


def test_the_finding_about_a_prepared_transaction_names_no_process() -> None:
    prepared = {"pid": 0, "is_there": True, "application": None, "user": None, "query": None}
    (finding,) = retrying_problems([event(1, RetryKind.ROW_HELD, prepared)])
    assert "a prepared transaction" in finding.problem
    assert "pg_prepared_xacts" in finding.advice
    assert "pg_terminate_backend" not in finding.advice


def test_a_session_that_has_ended_is_not_named() -> None:
    (finding,) = retrying_problems([event(1, RetryKind.ROW_HELD, PSQL | {"is_there": False})])
    assert "pid" not in finding.problem


@pytest.mark.parametrize("kind", RetryKind)
def test_each_kind_of_retry_has_a_finding(kind: RetryKind) -> None:
    (finding,) = retrying_problems([event(1, kind)])
    assert finding.problem.startswith("Entity order/order-1 has waited for 90 s")
    assert "LockNotAvailable: why" in finding.problem
    assert "sluice dlq ls --state retrying" in finding.advice


def test_an_event_without_entity_is_named_by_its_dead_letter() -> None:
    (finding,) = retrying_problems([event(7)._replace(key=None)])
    assert finding.problem.startswith("Dead letter 7 has waited")


def test_the_number_of_named_sessions_is_limited() -> None:
    many = [event(n, RetryKind.ROW_HELD, PSQL | {"pid": n}) for n in range(1, 20)]
    assert len(list(retrying_problems(many))) == MOST_HOLDERS
