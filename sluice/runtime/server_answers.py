"""The servers that accept a login of this process and answer, asked at most once every few seconds."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from sluice.runtime.outages import Server

ASK_EVERY_SECONDS = 5.0
"""The answer of a server is used for this time, so that no number of requests opens more connections."""

Probe = Callable[[], object]
State = Callable[[], bool | None]


class ServerAnswers:
    """Asks the servers of this process. Any thread may use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._questions: dict[Server, _Question] = {}
        self.probes: Mapping[Server, Probe] = {}
        """The servers to ask. A probe logs in, and raises an exception if its server does not answer."""
        self.states: Mapping[Server, State] = {}
        """The servers whose state the process knows from its own connections; None: not used yet."""

    def ask(self, wait_seconds: float) -> dict[Server, bool]:
        """Returns True for each server of `probes` that answers within this time.

        Each server is asked in a thread of its own, because a server that does not answer must not delay the
        answers of the others.
        """
        deadline = self._clock() + wait_seconds
        with self._lock:
            asked = {server: self._question(server, probe) for server, probe in self.probes.items()}
        return {server: one.is_answered(deadline - self._clock()) for server, one in asked.items()}

    def all(self, wait_seconds: float) -> dict[Server, bool]:
        """Returns the answers of `ask`, and the known states of the other servers."""
        known = {server: state() for server, state in self.states.items()}
        found = {server: state for server, state in known.items() if state is not None}
        return {**self.ask(wait_seconds), **found}

    def _question(self, server: Server, probe: Probe) -> "_Question":
        found = self._questions.get(server)
        if found is None or found.is_old(self._clock()):
            found = self._questions[server] = _Question(probe, self._clock())
        return found


class _Question:
    """One question to one server, in a thread."""

    def __init__(self, probe: Probe, now: float) -> None:
        self._probe = probe
        self._asked_at = now
        self._answered = False
        self._done = threading.Event()
        threading.Thread(target=self._ask, name="ask a server", daemon=True).start()

    def is_old(self, now: float) -> bool:
        """Returns True if the server may be asked again. A question without an answer stays."""
        return self._done.is_set() and now - self._asked_at >= ASK_EVERY_SECONDS

    def is_answered(self, wait_seconds: float) -> bool:
        return self._done.wait(max(0.0, wait_seconds)) and self._answered

    def _ask(self) -> None:
        # The error is in the log of the process, and may contain an address.
        with suppress(Exception):
            self._probe()
            self._answered = True
        self._done.set()
