"""One run of the relay: it lasts as long as events keep coming, and ends without losing a notification.

A run costs its message, its task and its events; at hundreds of commits a second those would cost more than
the sending. So the relay stays for a while, and while it is there nobody need call it.
"""

import time
from collections.abc import Callable
from typing import Protocol

STAY_SECONDS = 2.0  # then others of its worker's queues have their turn
LINGER_SECONDS = 0.05  # without anything to send: some batches' time at 100 commits a second
LOOK_SECONDS = 0.008  # between two looks: half of it is what a record waits, each costs a millisecond of CPU
DISPATCH_SECONDS = 0.05  # calls may wait that much longer than records: a provider takes longer anyway
FULL_RECORDS = 1_000  # sent at one look: there is more, and no time to lose
HOLD_MS = int(
    (STAY_SECONDS + 1) * 1_000
)  # the key of a relay that died in its run expires; beat starts another meanwhile


class Wakeup(Protocol):
    """What those who commit notify, and the relay holds while it is there."""

    def notify(self) -> None:
        """Calls the relay, unless it was called or is there."""

    def hold(self, milliseconds: int) -> None:
        """A notification is unnecessary while the key is held."""

    def release(self) -> None:
        """From now on ringing calls."""


class RelayLoop:
    """`send` publishes a page and says how many records it sent; `dispatch` tells of calls that are due."""

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
        """Sends what is there and what comes meanwhile; ends by itself. Raises what it was given raises."""
        self._wakeup.hold(HOLD_MS)
        try:
            self._stay()
        finally:
            self._wakeup.release()
        # The last look comes after the release: who committed before it found the wakeup held and left, who
        # commits after it notifies.
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
