"""Counts the failures of a queue in Postgres, so that restarts and other workers continue the count."""

import structlog

from sluice.db.apply import guard
from sluice.db.apply.guard import QueueFailures
from sluice.db.connection import Session
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.runtime.log_pace import LogPace
from sluice.tasks.apply.chunks import Chunk
from sluice.tasks.apply.narrowing import after_failure, after_success

log = structlog.get_logger("sluice.apply")


class FailureCounts:
    """Counts the failures of the queues that one session applies."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pace = LogPace()

    def count(self, queue: str, chunk: Chunk, error: Exception) -> None:
        """Counts a failed transaction, in a separate transaction. Best effort: a failure may be missed."""
        if chunk.first is None:
            return
        failures = after_failure(chunk.failures, chunk.first, chunk.events)
        text = printable(f"{type(error).__name__}: {error}")[:MAX_ERROR_CHARACTERS]
        try:
            guard.note_failures(self._session, queue, failures, text)
        except Exception as second:
            log.info("failure not counted", queue=queue, error=second)
            self._session.close()
        if failures.batch_limit is not None and self._pace.allows(queue):
            log.warning("batch narrowed", queue=queue, events=failures.batch_limit, error=text[:200])

    def note_success(self, queue: str, failures: QueueFailures) -> None:
        """Raises the batch limit again, within the successful transaction and under the queue's lock."""
        left = after_success(failures)
        if left is None:
            guard.clear_failures(self._session, queue)
        else:
            guard.note_failures(self._session, queue, left)
