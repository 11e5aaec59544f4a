"""Sessions on the test's database."""

from collections.abc import Callable, Iterator

import pytest

from sluice.db.connection import Session


@pytest.fixture
def make_session(database_url: str) -> Iterator[Callable[[], Session]]:
    """Opens one more, as another process would; all are closed afterwards."""
    made: list[Session] = []

    def make() -> Session:
        made.append(Session(database_url, application_name=f"test {len(made)}"))
        return made[-1]

    yield make
    for session in made:
        session.close()


@pytest.fixture
def session(make_session: Callable[[], Session]) -> Session:
    """One of them; what a test looks with, or works with alone."""
    return make_session()
