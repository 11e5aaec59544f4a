"""Writes the row of this process in `processes` every few seconds, and deletes it at the end."""

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from uuid import uuid4

import psycopg2
import structlog

from sluice.db.connection import Session
from sluice.db.delivery.living_processes import (
    Process,
    delete_process,
    end_old_keys,
    forget_processes,
    measure_clock_offset,
    write_process,
)
from sluice.db.records import ProcessKind
from sluice.runtime.settings import Settings
from sluice.tasks.fold.registry import Registry
from sluice.tasks.installation import formats
from sluice.tasks.installation.keyring import KeyRing

log = structlog.get_logger("sluice.installation")

HEARTBEAT_SECONDS = 5.0
STOP_SECONDS = 5.0  # how long to wait for the thread, which may be running a statement


class Presence:
    """Writes the row of this process from a separate thread.

    The row has the newest format that the process reads, the number of its newest key, and what its
    code declares. Each write opens and closes a session. `after` is called with the session after the row is
    written.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry | None,
        *,
        kind: ProcessKind,
        node: str,
        queues: Iterable[str] | None = None,
        after: Callable[[Session], None] | None = None,
    ) -> None:
        """`registry` is None for a process without handlers. Such a process declares nothing."""
        self.process = uuid4()
        self._url = settings.database_url.get_secret_value()
        self._declared = Process(
            self.process,
            kind,
            node,
            os.getpid(),
            formats.NEWEST_FORMAT,
            0,
            None if queues is None else tuple(sorted(queues)),
            {one.name: one.shards for one in registry.entities.values()} if registry else {},
            {one.name: one.entity.name for one in registry.topics.values()} if registry else {},
            tuple(sorted(registry.effects)) if registry else (),
        )
        self._after = after
        self._ring: KeyRing | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def announce(self) -> None:
        """Writes the row for the first time. Call it before this process reads the signing keys.

        Because of the row, other processes do not delete a key that this process may still use. Raises
        psycopg2.Error.
        """
        self._turn()

    def start(self, ring: KeyRing) -> None:
        """Starts the periodic writes. From now on the row has the number of the newest key in `ring`.

        Call it only one time.
        """
        self._ring = ring
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and deletes the row. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        with suppress(psycopg2.Error), closing(self._session()) as session:
            delete_process(session, self.process)

    def _run(self) -> None:
        failing = False
        while not self._stopping.wait(0 if self._declared.key_number == 0 else HEARTBEAT_SECONDS):
            try:
                self._turn()
                failing = False
            except psycopg2.Error as error:
                if not failing:
                    log.warning("heartbeat not written", error=error)
                failing = True
                self._stopping.wait(HEARTBEAT_SECONDS)

    def _turn(self) -> None:
        if self._ring is not None:
            self._ring.refresh(older_than=HEARTBEAT_SECONDS)
            self._declared = self._declared._replace(key_number=self._ring.newest_number)
        with closing(self._session()) as session:
            offset = measure_clock_offset(session)
            write_process(session, self._declared._replace(clock_offset=offset))
            end_old_keys(session)
            forget_processes(session)
            if self._after is not None:
                self._after(session)

    def _session(self) -> Session:
        return Session(self._url, application_name="sluice presence")
