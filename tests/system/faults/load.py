"""A steady load of events, and the comparison with the oracle after a fault."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from sluice.testing.servers.deployment import Deployment, Outgoing
from tests.waiting import wait_until

PAUSE_SECONDS = 0.1  # The pause before the next batch of due events.


def assert_equals_the_oracle(deployment: Deployment) -> None:
    """Asserts that tables and outcomes equal those of the oracle, and that every record has one outcome."""
    complaints = deployment.complaints(deployment.tables())
    assert not complaints, "\n".join(complaints[:20])


class SteadyLoad:
    """Produces `rate` events a second within a `with` block.

    `records` makes the events. Its arguments are the number of events and the number of the first event.
    """

    def __init__(
        self, deployment: Deployment, records: Callable[[int, int], Iterable[Outgoing]], *, rate: int
    ) -> None:
        self._deployment, self._records, self._rate = deployment, records, rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent = 0

    def __enter__(self) -> "SteadyLoad":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def wait_more(self, seconds: int) -> None:
        """Waits until further events were sent, as many as are due in `seconds`."""
        wanted = self.sent + seconds * self._rate
        wait_until(lambda: self.sent >= wanted, timeout_seconds=120, what=f"{wanted} events are sent")

    def look(self, deployment: Deployment) -> None:
        """Runs after each batch. Subclasses override it. `deployment` has its own connections."""

    def _send(self) -> None:
        # This thread has its own connections, because the test uses those of the deployment.
        mine = replace(self._deployment)
        began = time.monotonic()
        while not self._over.wait(PAUSE_SECONDS):
            due = int((time.monotonic() - began) * self._rate) - self.sent
            self.sent += mine.produce(self._records(due, self.sent))
            self.look(mine)
        mine.close()
