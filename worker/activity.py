"""A worker's current and last batch: written by its loop, read by the lease thread."""

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
    """The batch in hand and the last batch. Each attribute is replaced as a whole, for the other thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.busy: tuple[str, float] | None = None
        """The queue whose batch is in hand, and the start time of the batch."""
        self.last: FinishedBatch | None = None

    @contextmanager
    def batch(self, queue: str, records: int) -> Iterator[None]:
        """Marks the batch as in hand during the block."""
        began = self.clock()
        self.busy = (queue, began)
        try:
            yield
        finally:
            ended = self.clock()
            self.last = FinishedBatch(queue, ended, records, ended - began)
            self.busy = None
