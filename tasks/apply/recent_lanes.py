"""Keeps the lanes of each queue as of this process's newest batch, so that the next one is planned without a
read."""

import time
from collections.abc import Callable, Mapping

from sluice.db.apply.guard import Lanes
from sluice.runtime.place import Place

VALID_SECONDS = 1.0
"""Afterwards the next batch reads the state: another worker may have had the queue in between."""


class RecentLanes:
    """The lanes of each queue as of this process's newest commit: hints, which the transaction checks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lanes: dict[str, tuple[float, Lanes]] = {}

    def get(self, queue: str) -> Lanes | None:
        """Returns the lanes if they were noted within the last second."""
        noted_at, lanes = self._lanes.get(queue, (0.0, None))
        return lanes if lanes is not None and self._clock() - noted_at < VALID_SECONDS else None

    def note(self, queue: str, lanes: Lanes, moved: Mapping[Place, int]) -> None:
        """Notes the lanes as the transaction read them, with the offsets that it committed."""
        if lanes.failures is None and not lanes.deaths:
            self._lanes[queue] = (self._clock(), lanes._replace(applied={**lanes.applied, **moved}))
        else:
            self.forget(queue)

    def forget(self, queue: str) -> None:
        """Makes the next batch of the queue read its lanes."""
        self._lanes.pop(queue, None)
