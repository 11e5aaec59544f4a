"""What a worker does right now, and what it did last: written by its loop, read by the leases' thread."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class FinishedBatch:
    """A batch that is done; times as the clock says."""

    queue: str
    ended_at: float
    records: int
    seconds: float


class Activity:
    """Each attribute is replaced whole, so that another thread may read it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.busy: tuple[str, float] | None = None
        """The queue whose batch is in hand, and since when."""
        self.last: FinishedBatch | None = None

    @contextmanager
    def batch(self, queue: str, records: int) -> Iterator[None]:
        """The block applies a batch."""
        began = self.clock()
        self.busy = (queue, began)
        try:
            yield
        finally:
            ended = self.clock()
            self.last = FinishedBatch(queue, ended, records, ended - began)
            self.busy = None
