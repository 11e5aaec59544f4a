"""A thread that repeats a query and records every change of the result."""

import threading
from collections.abc import Mapping
from typing import Any

from sluice.db.connection import Session


class Readers:
    """Repeats one query in a thread until the `with` block ends."""

    def __init__(self, database_url: str, query: str, known: Mapping[str, Mapping[str, Any]]) -> None:
        """`query` returns (key, value) rows; `known` maps names to expected results."""
        self._database_url = database_url
        self._query = query
        self._known = known
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.seen: list[str] = []
        """The names of the results, one per change. An unknown result is shown by its first characters."""
        self.looks = 0

    def __enter__(self) -> "Readers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        session = Session(self._database_url, application_name="reader")
        while not self._over.is_set():
            with session.connection.cursor() as cursor:
                cursor.execute(self._query)
                found = dict(cursor.fetchall())
            names = [name for name, rows in self._known.items() if rows == found]
            what = names[0] if names else f"unknown result: {str(found)[:300]}"
            self.looks += 1
            if not self.seen or self.seen[-1] != what:
                self.seen.append(what)
        session.close()
