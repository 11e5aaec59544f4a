"""One run of the relay: it continues while events arrive, and ends without losing a notification.

A run has a cost: its message, its task and its task events. At hundreds of commits per second this would cost
more than the sending. So the relay runs for a while, and needs no notification meanwhile.
"""

import time
from collections.abc import Callable
from typing import Protocol

STAY_SECONDS = 2.0  # per run, so that the other queues of the worker are served
LINGER_SECONDS = 0.05  # idle time that ends a run: a few batches at 100 commits per second
LOOK_SECONDS = 0.008  # between two looks; a record waits for half of it; a look costs 1 ms of CPU
DISPATCH_SECONDS = 0.05  # calls may wait longer than records, because a provider is slower
FULL_RECORDS = 1_000  # if a look sends this many, more records wait, and the next look follows at once
# If the relay's process ends in a run, the key expires. Until then, beat starts the relay.
HOLD_MS = int((STAY_SECONDS + 1) * 1_000)


class Wakeup(Protocol):
    """Starts the relay after a commit. The relay holds the wakeup while it runs."""

    def notify(self) -> None:
        """Starts a run of the relay, unless one is queued or running."""

    def hold(self, milliseconds: int) -> None:
        """Suppresses notifications for this time."""

    def release(self) -> None:
        """Ends the suppression: from now on `notify` starts a run."""


class RelayLoop:
    """Runs the relay. `send` publishes a page and returns its records; `dispatch` publishes due calls."""

    def __init__(
        self,
        wakeup: Wakeup,
        *,
        send: Callable[[], int],
        dispatch: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._wakeup = wakeup
        self._send = send
        self._dispatch = dispatch
        self._clock = clock
        self._sleep = sleep

    def run(self) -> None:
        """Sends waiting records, and records that arrive meanwhile. Raises the errors of both functions."""
        self._wakeup.hold(HOLD_MS)
        try:
            self._stay()
        finally:
            self._wakeup.release()
        # The last look follows the release: a commit before the release may have found the wakeup held, and
        # a commit after the release sends a notification.
        self._dispatch()
        if self._send():
            self._wakeup.notify()

    def _stay(self) -> None:
        began_at = sent_at = self._clock()
        dispatched_at = float("-inf")
        while (now := self._clock()) - began_at < STAY_SECONDS and now - sent_at < LINGER_SECONDS:
            if now - dispatched_at >= DISPATCH_SECONDS:
                dispatched_at = now
                self._dispatch()
            sent = self._send()
            if sent:
                sent_at = self._clock()
            if sent < FULL_RECORDS:
                self._sleep(LOOK_SECONDS)
