"""A thread beside the worker's loop, for tasks that would block the loop.

The relay, the maintenance and the purge each have a thread. Therefore a relay that waits for Kafka does not
delay maintenance, and a long purge does not delay the relay. The loop continues to pop messages.
"""

import threading
import time
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger("sluice.worker")

STUCK_SECONDS = 60.0
"""Longer than every run.

Time-outs of Postgres and Kafka limit each run, and a run of the purge ends after 20 seconds.
"""
END_SECONDS = 20.0  # the longest wait for the current runs when the worker ends


class TaskThread:
    """Runs tasks one after the other, in the order of `submit`. Any thread may call `submit`.

    At most one run of a task is queued, because a run that has not begun will read everything that is
    committed until now. A run that has begun may already have read, so a message that arrives during a run
    queues one more run.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._busy_since: float | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    def submit(self, task: str, run: Callable[[], None]) -> None:
        """Queues a run of the task. Returns at once. Idempotent until the run begins."""
        with self._changed:
            self._waiting.setdefault(task, run)
            self._changed.notify()
            # The thread is not started in the constructor, because a forked child has no threads of its
            # parent.
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()

    def is_stuck(self) -> bool:
        """Returns True if one run has lasted for STUCK_SECONDS. Then only a restart of the process helps."""
        began = self._busy_since
        return began is not None and self._clock() - began >= STUCK_SECONDS

    def end(self) -> None:
        """Prevents further runs. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Waits for the end of the current run, at most for this time."""
        if self._thread is not None:
            self._thread.join(max(0.0, seconds))

    def _loop(self) -> None:
        while (found := self._next()) is not None:
            task, run = found
            try:
                run()
            except (Exception, SystemExit):
                log.exception("task failed", task=task)
            finally:
                self._busy_since = None

    def _next(self) -> tuple[str, Callable[[], None]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                return None
            task = next(iter(self._waiting))
            self._busy_since = self._clock()
            return task, self._waiting.pop(task)


def end_threads(threads: Sequence[TaskThread], *, clock: Callable[[], float] = time.monotonic) -> None:
    """Ends all threads after their current runs. Waits for at most END_SECONDS."""
    deadline = clock() + END_SECONDS
    for thread in threads:
        thread.end()
    for thread in threads:
        thread.join(deadline - clock())
