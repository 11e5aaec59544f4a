"""What a worker remembers of Postgres is read again after a reconnect: the server may have an older state."""

from collections.abc import Callable, Iterator

import pytest

from sluice.db import connection
from sluice.db.connection import Reconnects, Session, Statement
from sluice.tasks.apply.entity_tables import EntityTables
from sluice.tasks.apply.topic_modes import TopicModes
from tests.db.tasks.applying import TOPIC, create_tables, registry, things
from tests.mutants import mutated

READ_NOTES = Statement("read_notes", "SELECT entity, table_name FROM sluice.entity_tables")


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    """Yields a session on a database with the tables of the application."""
    create_tables(database_url)
    made = Session(database_url, application_name="test")
    yield made
    made.close()


def test_a_reconnect_is_noticed_one_time(session: Session) -> None:
    reconnects = Reconnects(session)
    assert [reconnects.note(), reconnects.note()] == [True, False]
    session.close()
    assert [reconnects.note(), reconnects.note()] == [True, False]


def test_tables_that_a_failover_forgot_are_noted_again(session: Session) -> None:
    """Without its note, `sluice erase` would not find the table."""
    tables = EntityTables(session)
    for _ in range(2):
        tables.note("thing", [things], [])
    session.command("DELETE FROM sluice.entity_tables")
    tables.note("thing", [things], [])
    assert session.run(READ_NOTES) == [], "the second note was kept in memory"
    session.close()
    tables.note("thing", [things], [])
    assert session.run(READ_NOTES) == [("thing", "things")]


def test_the_mode_of_an_epoch_that_a_failover_lost_is_read_again(session: Session) -> None:
    """The lost epoch had the mode "id". Its number is then given to the mode "natural"."""
    set_mode = "UPDATE sluice.topics SET dedup = '{}'; UPDATE sluice.entities SET epoch = 2"
    session.command(set_mode.format("id"))
    modes = TopicModes(session, registry())
    modes.follow([(TOPIC, 2)])
    session.command(set_mode.format("natural"))
    session.close()
    modes.follow([(TOPIC, 2)])
    assert modes.topics[TOPIC].dedup == "natural"


NOTE = "is_new, self._seen = connection is not self._seen, connection"
MUTANTS = {
    "only the first connection is noticed": (
        "is_new, self._seen = self._seen is None, connection",
        (
            test_a_reconnect_is_noticed_one_time,
            test_tables_that_a_failover_forgot_are_noted_again,
            test_the_mode_of_an_epoch_that_a_failover_lost_is_read_again,
        ),
    ),
    "each call notices a connection": (
        "is_new = connection is not self._seen",
        (test_a_reconnect_is_noticed_one_time, test_tables_that_a_failover_forgot_are_noted_again),
    ),
}


@pytest.mark.parametrize(
    ("new", "test"),
    [
        pytest.param(new, test, id=f"{name}-{test.__name__}")
        for name, (new, tests) in MUTANTS.items()
        for test in tests
    ],
)
def test_the_mutant_is_found(
    new: str, test: Callable[[Session], None], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reconnects, "note", mutated(connection, NOTE, new).Reconnects.note)
    with pytest.raises(AssertionError):
        test(session)
