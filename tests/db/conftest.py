"""Fixtures for sessions on the database of a test."""

from collections.abc import Callable, Iterator

import pytest

from sluice.db.connection import Session


@pytest.fixture
def make_session(database_url: str) -> Iterator[Callable[[], Session]]:
    """Yields a function that opens sessions, as other processes would. Closes all sessions at the end."""
    made: list[Session] = []

    def make() -> Session:
        made.append(Session(database_url, application_name=f"test {len(made)}"))
        return made[-1]

    yield make
    for session in made:
        session.close()


@pytest.fixture
def session(make_session: Callable[[], Session]) -> Session:
    """Returns a session for the queries of the test, or for a test that needs only one session."""
    return make_session()
