"""One run of the relay. A run continues while events arrive, and misses no notification at its end.

Each run costs a message, a task and task events. At hundreds of commits per second, a run per commit would
cost more than the sending. Therefore a run continues for a while, and meanwhile commits need no notification.
"""

import time
from collections.abc import Callable
from typing import Protocol

STAY_SECONDS = 2.0  # the longest run, because the worker also serves other queues
# A run ends after this time without records; at 100 commits per second, this is a few batches.
LINGER_SECONDS = 0.05
# The pause between two looks; a record waits for half of this time; a look costs 1 ms of CPU.
LOOK_SECONDS = 0.008
# The pause between two looks for calls; they may wait longer, because a provider is slower than Kafka.
DISPATCH_SECONDS = 0.05
# If a look sends this many records, more records wait, and the next look follows without a pause.
FULL_RECORDS = 1_000
# The time after which a hold expires. It expires if the relay's process ends during a run. Until then, only
# beat starts the relay.
HOLD_MS = int((STAY_SECONDS + 1) * 1_000)


class Wakeup(Protocol):
    """Starts the relay after a commit.

    While the relay runs, it holds the wakeup: no further run is started.
    """

    def notify(self) -> None:
        """Starts a run of the relay, unless one is queued or running."""

    def hold(self, milliseconds: int) -> None:
        """For this time, `notify` starts no run."""

    def release(self) -> None:
        """Ends the hold. From now on, `notify` starts a run again."""


class RelayLoop:
    """Runs the relay.

    `send` publishes a page of records and returns their number. `dispatch` publishes due calls.
    """

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
        """Sends waiting records, and records that arrive meanwhile.

        Raises the errors of `send` and `dispatch`.
        """
        self._wakeup.hold(HOLD_MS)
        try:
            self._stay()
        finally:
            self._wakeup.release()
        # The last look comes after the release. Before the release, a commit may have found the wakeup held,
        # and so have started no run. After the release, a commit starts a run.
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
