"""Decides which batches are settled optimistically: not those of a queue that deviated lately. Pure."""

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["auto", "always", "never"]

MOST_SKIPPED = 64  # batches of one queue


@dataclass(slots=True)
class Optimism:
    """The deviations of each queue, as one process met them."""

    mode: Mode = "auto"
    _skipped: dict[str, int] = field(default_factory=dict)
    """Queue → number of batches that are not tried."""
    _penalty: dict[str, int] = field(default_factory=dict)
    """Queue → number of batches that the next deviation costs."""
    _deviating: set[str] = field(default_factory=set)
    """Queues whose newest batch deviated and is not committed yet."""

    def allows(self, queue: str) -> bool:
        """Returns True if the next attempt at a batch of the queue is optimistic."""
        if queue in self._deviating or self.mode == "never":
            return False
        return self.mode == "always" or not self._skipped.get(queue, 0)

    def note_deviation(self, queue: str) -> None:
        """Skips this batch, and twice as many further ones as after the deviation before."""
        penalty = self._penalty.get(queue, 1)
        self._deviating.add(queue)
        self._skipped[queue] = penalty
        self._penalty[queue] = min(2 * penalty, MOST_SKIPPED)

    def note_committed(self, queue: str, *, optimistic: bool) -> None:
        """Counts a batch. A success halves the number of batches that the next deviation costs."""
        self._deviating.discard(queue)
        if optimistic:
            self._penalty[queue] = max(1, self._penalty.get(queue, 1) // 2)
        elif left := self._skipped.get(queue, 0):
            self._skipped[queue] = left - 1
