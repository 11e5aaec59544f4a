"""Decides if a restart could repair this bridge. Pure.

An absent broker, a missing right or an error of one partition is shown by `status`, `doctor` and metrics. A
restart would not repair such a problem, so the bridge counts as healthy. A spare bridge, which has no
partition because there are more bridges than partitions, is healthy too.
"""

UNHEALTHY_SECONDS = 60.0


class BridgeHealth:
    """The health of one bridge. Times are by a monotonic clock."""

    def __init__(self) -> None:
        self._broken_since: float | None = None
        self._idle_since: float | None = None

    def note_consumer(self, *, is_broken: bool, now: float) -> None:
        """Notes whether the newest attempt to make a consumer failed although brokers answer."""
        self._broken_since = _since(self._broken_since, is_broken, now)

    def note_partitions(self, *, assigned: bool, unowned: bool, now: float) -> None:
        """Notes whether this bridge has a partition, and whether a readable partition has no bridge."""
        self._idle_since = _since(self._idle_since, unowned and not assigned, now)

    def complaint(self, now: float) -> str:
        """Returns the problem that has lasted for UNHEALTHY_SECONDS, or an empty text."""
        if self._broken_since is not None and now - self._broken_since >= UNHEALTHY_SECONDS:
            return "brokers answer, but no consumer could be made"
        if self._idle_since is not None and now - self._idle_since >= UNHEALTHY_SECONDS:
            return "this bridge has no partition, although a readable partition has no bridge"
        return ""

    def is_healthy(self, now: float) -> bool:
        """Returns False if a restart may help."""
        return not self.complaint(now)


def _since(before: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if before is None else before
