"""The signing keys of this process and its publishing format, both read from Postgres."""

import os
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import structlog

from sluice.db.connection import Session
from sluice.db.delivery.installation import Key, read_keys
from sluice.db.delivery.living_processes import read_oldest_format
from sluice.runtime.installation import Installation
from sluice.runtime.log_pace import LogPace
from sluice.runtime.message_frame import Frame, open_frame, seal
from sluice.runtime.settings import Settings
from sluice.tasks.installation import formats

log = structlog.get_logger("sluice.installation")

FRESH_SECONDS = 10.0  # within this time, every publisher reads a new key or the format of an older worker
SUSPICION_SECONDS = 1.0  # the shortest time between two reads that unsigned messages cause


class Signing(NamedTuple):
    """The keys, newest first, and the newest format that every active worker reads.

    `oldest_format` is None if no worker is active.
    """

    keys: tuple[Key, ...]
    oldest_format: int | None


class KeyRing:
    """Signs and checks messages. Thread-safe. A forked child continues with the keys of its parent.

    Each read opens and closes its own connection. During an outage of Postgres, the keys of the last read are
    used.
    """

    def __init__(
        self,
        installation: Installation,
        read: Callable[[], Signing],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the keys. Raises errors of Postgres."""
        self._installation = installation
        self._read = read
        self._clock = clock
        self._pace = LogPace(clock=clock)
        self._unlock()
        # Otherwise a child that is forked while its parent holds the lock would wait forever.
        os.register_at_fork(after_in_child=self._unlock)
        self._signing = read()
        self._read_at = clock()

    @property
    def newest_number(self) -> int:
        """Returns the number of the newest key that was read, 0 if there is none."""
        return self._signing.keys[0].number if self._signing.keys else 0

    @property
    def format(self) -> int:
        """Returns the format in which this process publishes now."""
        self.refresh(older_than=FRESH_SECONDS)
        oldest = self._signing.oldest_format
        return formats.NEWEST_FORMAT if oldest is None else min(formats.NEWEST_FORMAT, oldest)

    def seal(self, version: int, content: bytes) -> bytes:
        """Returns the content signed with the newest key."""
        self.refresh(older_than=FRESH_SECONDS)
        return seal(self._signing.keys[0].key, Frame(version, self._installation.id, content))

    def open(self, message: bytes) -> Frame | None:
        """Returns the signed content, None if this installation did not sign it.

        Before it returns None, it reads the keys again, at most once a second.
        """
        self.refresh(older_than=FRESH_SECONDS)
        frame = self._opened(message)
        if frame is None and self.refresh(older_than=SUSPICION_SECONDS):
            frame = self._opened(message)
        return frame

    def refresh(self, *, older_than: float = 0.0) -> bool:
        """Reads the keys again if the last read is older than `older_than`. Returns True if it read them."""
        if self._clock() - self._read_at < older_than:
            return False
        with self._lock:
            if self._clock() - self._read_at < older_than:
                return False
            # Also set after a failure, so that an outage of Postgres does not cause a read per message.
            self._read_at = self._clock()
            try:
                self._signing = self._read()
            except Exception as error:
                if self._pace.allows(type(error).__name__):
                    log.warning("signing keys not read", error=error)
                return False
            return True

    def _unlock(self) -> None:
        self._lock = threading.Lock()

    def _opened(self, message: bytes) -> Frame | None:
        frame = open_frame((key.key for key in self._signing.keys), message)
        return None if frame is None or frame.installation != self._installation.id else frame


def open_keyring(settings: Settings, installation: Installation) -> KeyRing:
    """Returns the key ring of this process. Raises psycopg2.Error."""
    url = settings.database_url.get_secret_value()

    def read() -> Signing:
        with closing(Session(url, application_name="sluice keys")) as session:
            return Signing(read_keys(session), read_oldest_format(session))

    return KeyRing(installation, read)
