"""Notes for `sluice erase` which tables the events of an entity type write.

A note also contains if events write rows under keys other than their own.
"""

from collections.abc import Iterable

from sqlalchemy import Table

from sluice.db.apply.erasures import note_entity_tables
from sluice.db.connection import Reconnects, Session


class EntityTables:
    """The notes that one connection has stored. A table that is already noted costs no statement.

    After a reconnect all tables are noted again: a promoted standby may lack the newest notes.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reconnects = Reconnects(session)
        self._noted: dict[tuple[str, str], bool] = {}

    def note(self, entity: str, changed: Iterable[Table], other: Iterable[Table]) -> None:
        """Notes tables that events changed, or wrote under other keys than their own, in one transaction."""
        if self._reconnects.note():
            self._noted.clear()
        seen = {table.name: False for table in changed} | {table.name: True for table in other}
        new = {
            name: otherwise
            for name, otherwise in seen.items()
            if otherwise > self._noted.get((entity, name), -1)
        }
        # Keeps notes in memory only if Postgres already had all of them. New notes may be rolled back.
        if new and not note_entity_tables(self._session, entity, new):
            self._noted |= {(entity, name): otherwise for name, otherwise in new.items()}
