"""Finds the sessions that a backend waits for. Postgres shows them only while the backend waits."""

import threading

import psycopg2

from sluice.db.apply.retries import read_blockers
from sluice.db.connection import Session

LOOK_SECONDS = 0.005


class BlockerWatch:
    """Searches in a thread, over its own connection, until it finds blockers or is ended."""

    def __init__(self, session: Session) -> None:
        """Opens the connection now, so that the search can begin as soon as the backend waits."""
        self._session = session.another("sluice blockers")
        self._ended = threading.Event()
        self._found: str | None = None
        self._thread: threading.Thread | None = None
        try:
            self._session.command("SELECT 1")
        except psycopg2.Error:
            self._ended.set()

    def start(self, pid: int) -> None:
        """Begins the search for a backend's blockers."""
        self._thread = threading.Thread(target=self._look, args=(pid,), name="blockers", daemon=True)
        self._thread.start()

    def end(self) -> str | None:
        """Ends the thread and the connection. Returns the blockers as a JSON array, None if it found none."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._session.close()
        return self._found

    def _look(self, pid: int) -> None:
        try:
            while not self._ended.is_set() and self._found is None:
                self._found = read_blockers(self._session, pid)
                self._ended.wait(LOOK_SECONDS)
        except psycopg2.Error:
            # A later retry searches again.
            return
