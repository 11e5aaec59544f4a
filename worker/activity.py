"""A worker's current and last batch. The worker's loop writes them, and the lease thread reads them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class FinishedBatch:
    """A finished batch."""

    queue: str
    ended_at: float
    records: int
    seconds: float


class Activity:
    """The current and the last batch.

    Each attribute is replaced as a whole, because another thread reads it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.busy: tuple[str, float] | None = None
        """The queue of the current batch, and the start time of the batch; None without a batch."""
        self.last: FinishedBatch | None = None

    @contextmanager
    def batch(self, queue: str, records: int) -> Iterator[None]:
        """Marks a batch as the current batch during the block."""
        began = self.clock()
        self.busy = (queue, began)
        try:
            yield
        finally:
            ended = self.clock()
            self.last = FinishedBatch(queue, ended, records, ended - began)
            self.busy = None
