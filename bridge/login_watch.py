"""Finds why the brokers refuse a bridge that runs, for example after a change of the password.

The clients report only that a connection failed. A thread tries the login, because it may take seconds.
"""

import threading
from collections.abc import Callable

import structlog

from sluice.runtime.log_pace import LogPace

log = structlog.get_logger("sluice.bridge")

CHECK_SECONDS = 5.0  # the shortest time between two logins
CONFIRM_SECONDS = 1.0  # a broker that stops closes connections, which looks like a refusal
STOP_SECONDS = 5.0  # the longest wait for the thread, which may be logging in


class LoginWatch:
    """A thread that tries the login after `suspect`, and again until the brokers accept it.

    `find_refusal` returns one sentence on why the brokers refuse the login; None if they accept it or are
    away. Only a refusal that is found twice counts. `have_files_changed` returns True if the files of the
    login have changed since the bridge's client read them. Call `start` only once.
    """

    def __init__(
        self,
        find_refusal: Callable[[], str | None],
        *,
        have_files_changed: Callable[[], bool] = lambda: False,
        pause_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._find_refusal = find_refusal
        self._have_files_changed = have_files_changed
        self._needs_client = threading.Event()
        self._pause_seconds = pause_seconds
        self._suspected, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="login", daemon=True)
        self._pace = LogPace()
        self.refusal = ""
        """Why the brokers refused the last login; "" if they did not."""

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. Idempotent."""
        self._stopping.set()
        self._suspected.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def suspect(self) -> None:
        """Makes the thread try the login soon. Never waits."""
        self._suspected.set()

    def take_renewal(self) -> bool:
        """Returns True once if the bridge must make a new client, because the new files are accepted."""
        found = self._needs_client.is_set()
        self._needs_client.clear()
        return found

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self.refusal:
                self._suspected.wait()
            self._suspected.clear()
            if self._stopping.is_set():
                return
            try:
                self._check()
            except Exception as error:
                log.warning("login not tried", error=error)
            self._stopping.wait(self._pause_seconds)

    def _check(self) -> None:
        before, found = self.refusal, self._find_refusal()
        if found and not before:
            self._stopping.wait(min(CONFIRM_SECONDS, self._pause_seconds))
            found = self._find_refusal()
        self.refusal = found or ""
        if self.refusal and self._pace.allows(self.refusal):
            log.error("Kafka refuses this bridge; the bridge retries", reason=self.refusal)
        elif before and not self.refusal:
            log.info("Kafka no longer refuses this bridge")
        if not self.refusal and self._have_files_changed():
            log.info("files of the login have changed; the bridge makes a new client")
            self._needs_client.set()
