"""In a worker without a supervisor, notes in Postgres the event whose handlers run.

A worker writes notes only for its first slice of each lane: if an event ends a worker, the next holder of the
queue begins with the slice of this event. At first, one note covers a whole batch. If this note remains, it
does not count as a death. A worker that finds a note of another worker notes each event while the handlers of
the event run. If such a note remains, it counts as a death. Notes are best effort: if a note is missing, the
next holder of the queue notes the events.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

import psycopg2
import structlog

from sluice.db.apply.handler_deaths import count_notes, note_handler, remove_note
from sluice.db.connection import Session
from sluice.runtime.log_pace import LogPace
from sluice.runtime.place import EventPlace

log = structlog.get_logger("sluice.apply")

# The end of this process loses no commit. A crash of the server loses at most a note.
NOTE_SETTINGS = {"synchronous_commit": "off"}
QUIET_BATCHES = 50
"""After so many batches without a note, the connection is closed. One connection per batch would slow a
start by 10 %."""
Lane = tuple[str, str, int]
T = TypeVar("T")


class HandlerNotes:
    """The notes of one worker, over a connection that is open while there is something to note."""

    def __init__(self, session: Session, worker: UUID, *, notes_handlers: bool) -> None:
        """`notes_handlers` is False under a supervisor: then only other workers' notes are counted."""
        self._session = session
        self._worker = worker
        self._notes_handlers = notes_handlers
        self._queue: str | None = None
        """The queue of the current batch."""
        self._counted: set[str] = set()
        """Queues where notes of other workers were counted."""
        self._watched: set[str] = set()
        """Queues where another worker left a note. Each event of these queues is noted."""
        self._known: set[Lane] = set()
        """Lanes of which this worker has applied a slice."""
        self._met: set[Lane] = set()
        """Lanes of the current batch."""
        self._quiet = 0
        """The number of consecutive batches without a note."""
        self._is_noted = self._failed = False
        self._pace = LogPace()

    @contextmanager
    def batch(self, queue: str) -> Iterator[None]:
        """Runs around a batch. Counts as deaths the notes that former holders of the queue left."""
        self._queue = queue
        if queue not in self._counted:
            self._count(queue)
        try:
            yield
            self._known |= self._met
        finally:
            self._remove()
            self._queue = None
            self._quiet = 0 if self._met else self._quiet + 1
            self._met.clear()
            self._failed = False
            if self._quiet == QUIET_BATCHES:
                self._session.close()

    def forget(self, queue: str) -> None:
        """Forgets a queue that another worker takes over, because that worker may leave notes."""
        self._counted.discard(queue)
        self._watched.discard(queue)
        self._known = {lane for lane in self._known if lane[0] != queue}

    def begin(self, queue: str, place: EventPlace) -> None:
        """Notes the event, or the batch that begins with it, if the event's lane is new to this worker."""
        if not self._notes_handlers or queue != self._queue or self._failed:
            return
        lane = (queue, place.topic, place.partition)
        if lane in self._known:
            return
        self._met.add(lane)
        is_batch = queue not in self._watched
        if is_batch and self._is_noted:
            return
        self._is_noted = True
        self._try(lambda: note_handler(self._session, queue, self._worker, place, is_batch=is_batch))

    def end(self, queue: str) -> None:
        """Removes the note of an event. The note of a batch is kept until the batch ends."""
        if queue in self._watched:
            self._remove()

    def _remove(self) -> None:
        queue = self._queue
        if self._is_noted and queue is not None:
            self._is_noted = False
            self._try(lambda: remove_note(self._session, queue, self._worker))

    def _count(self, queue: str) -> None:
        found = self._try(lambda: count_notes(self._session, queue, self._worker))
        if found is not None:
            self._counted.add(queue)
        if found:
            self._watched.add(queue)
            log.warning("workers ended inside batches", queue=queue, notes=found)

    def _try(self, run: Callable[[], T]) -> T | None:
        """Runs a statement. Returns None if Postgres fails; the batch then handles the same failure."""
        try:
            return run()
        except psycopg2.Error as error:
            self._failed = True
            self._session.close()
            if self._pace.allows("failed"):
                log.warning("handlers not noted", error=error)
            return None
