"""One run of the relay: it continues while events arrive, and ends without losing a notification.

A run costs its message, its task and its events; at hundreds of commits a second those would cost more than
the sending. So the relay runs for a while, and no notification is needed meanwhile.
"""

import time
from collections.abc import Callable
from typing import Protocol

STAY_SECONDS = 2.0  # per run, so that the other queues of the worker are served
LINGER_SECONDS = 0.05  # idle time that ends a run: a few batches at 100 commits a second
LOOK_SECONDS = 0.008  # between two looks: a record waits for half of it; a look costs 1 ms of CPU
DISPATCH_SECONDS = 0.05  # calls may wait longer than records: a provider takes longer anyway
FULL_RECORDS = 1_000  # sent by one look: more are waiting, so the next look follows at once
HOLD_MS = int(
    (STAY_SECONDS + 1) * 1_000
)  # the key of a relay that ended within its run expires; beat starts another meanwhile


class Wakeup(Protocol):
    """The wakeup that a commit notifies, and that the relay holds while it runs."""

    def notify(self) -> None:
        """Starts a run of the relay, unless one is queued or running."""

    def hold(self, milliseconds: int) -> None:
        """Suppresses notifications for this long."""

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
        """Sends what waits and what arrives meanwhile, then returns. Passes on errors of both functions."""
        self._wakeup.hold(HOLD_MS)
        try:
            self._stay()
        finally:
            self._wakeup.release()
        # The last look follows the release: a commit before the release may have found the wakeup held, and
        # a commit after it notifies.
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
