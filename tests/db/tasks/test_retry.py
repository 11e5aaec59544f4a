"""The retry of a transaction: its attempts, its pauses and its connections."""

from collections.abc import Iterator

import psycopg2
import pytest

from sluice.db.connection import Session, Statement
from sluice.db.errors import RowsChanged
from sluice.tasks.apply.retry import retry

PID = Statement("test_retry_pid", "SELECT pg_backend_pid()")
LOST = psycopg2.OperationalError("server closed the connection")
CHANGED = RowsChanged("another writer changed the rows")


class Run:
    """Attempts with a simulated time. The first attempts raise the given errors, the next one succeeds.

    A successful attempt returns the process id of its session in Postgres.
    """

    def __init__(self, session: Session, *errors: Exception) -> None:
        self._session = session
        self._errors = iter(errors)
        self.now = 100.0
        self.paused: list[float] = []
        self.asked: list[tuple[Exception, float, float]] = []

    def attempt(self) -> int:
        pid: int = self._session.run(PID)[0][0]
        self.now += 1
        for error in self._errors:
            raise error
        return pid

    def pause_after(self, error: Exception, elapsed_seconds: float, jitter: float) -> float | None:
        self.asked.append((error, elapsed_seconds, jitter))
        return 4.0 if elapsed_seconds < 10 else None

    def sleep(self, seconds: float) -> None:
        self.paused.append(seconds)
        self.now += seconds

    def retry(self) -> int:
        return retry(
            self._session,
            self.attempt,
            self.pause_after,
            what="test",
            clock=lambda: self.now,
            sleep=self.sleep,
            draw_jitter=lambda: 0.25,
        )


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    opened = Session(database_url, application_name="test-retry")
    yield opened
    opened.close()


def test_a_success_is_not_repeated(session: Session) -> None:
    run = Run(session)
    run.retry()
    assert (run.asked, run.paused, run.now) == ([], [], 101)


def test_a_failure_is_repeated_after_the_pause_over_the_same_connection(session: Session) -> None:
    before = session.run(PID)[0][0]
    run = Run(session, CHANGED, CHANGED)
    assert run.retry() == before
    assert run.asked == [(CHANGED, 1, 0.25), (CHANGED, 6, 0.25)]
    assert run.paused == [4, 4]


def test_a_lost_connection_is_replaced_before_the_next_attempt(session: Session) -> None:
    before = session.run(PID)[0][0]
    assert Run(session, LOST).retry() != before


def test_the_last_error_is_raised_and_its_connection_is_closed(session: Session) -> None:
    before = session.connection
    run = Run(session, CHANGED, CHANGED, LOST, CHANGED)
    with pytest.raises(psycopg2.OperationalError) as raised:
        run.retry()
    assert raised.value is LOST
    assert run.paused == [4, 4]
    assert before.closed
