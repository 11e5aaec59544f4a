"""Events that come all the while, and the one question asked after each fault."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from sluice.testing.servers.deployment import Deployment, Outgoing
from tests.waiting import wait_until

PAUSE_SECONDS = 0.1  # between two sendings of what is due


def assert_as_the_oracle_says(deployment: Deployment) -> None:
    """Tables equal the oracle's fold of the log; outcomes equal its outcomes, and add up to the records."""
    complaints = deployment.complaints(deployment.tables())
    assert not complaints, "\n".join(complaints[:20])


class SteadyLoad:
    """So many events a second while the `with` block lasts. `records`: count, number of the first."""

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
        """So many seconds' events more are sent."""
        wanted = self.sent + seconds * self._rate
        wait_until(lambda: self.sent >= wanted, timeout_seconds=120, what=f"{wanted} events are sent")

    def look(self, deployment: Deployment) -> None:
        """After each sending; by the load's own connections."""

    def _send(self) -> None:
        # Connections of its own: those of the deployment are the test's.
        mine = replace(self._deployment)
        began = time.monotonic()
        while not self._over.wait(PAUSE_SECONDS):
            due = int((time.monotonic() - began) * self._rate) - self.sent
            self.sent += mine.produce(self._records(due, self.sent))
            self.look(mine)
        mine.close()
