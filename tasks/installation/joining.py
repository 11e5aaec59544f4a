"""Joins an installation at the start of a process: reads its row, announces the process, reads the keys."""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import psycopg2
import structlog

from sluice.db.errors import allows_waiting_at_start, describe_refusal
from sluice.db.records import ProcessKind
from sluice.runtime.backoff import Backoff
from sluice.runtime.health import process_health, touch_health
from sluice.runtime.installation import Installation, InstallationRefused
from sluice.runtime.log_pace import LogPace
from sluice.runtime.settings import Settings
from sluice.tasks.fold.registry import Registry
from sluice.tasks.installation.claim_check import refuse_if_claimed
from sluice.tasks.installation.keyring import KeyRing, open_keyring
from sluice.tasks.installation.opening import open_installation
from sluice.tasks.installation.presence import Presence
from sluice.tasks.installation.readiness import server_probes, uses_kafka

log = structlog.get_logger("sluice.installation")

POLL_SECONDS = 0.5

T = TypeVar("T")


class Membership(NamedTuple):
    """The membership of a process in an installation. `leave` ends it."""

    installation: Installation
    ring: KeyRing
    presence: Presence

    def leave(self) -> None:
        """Deletes the row of this process. Idempotent."""
        self.presence.stop()


def join_once(
    settings: Settings,
    registry: Registry | None,
    *,
    kind: ProcessKind,
    node: str,
    queues: Iterable[str] | None = None,
) -> Membership:
    """Joins the installation of this process's database. Raises InstallationRefused, psycopg2.Error.

    Waits while Redis does not answer, and up to half a minute to detect another active copy of the database.
    `registry` is None for a process that needs no handlers. `queues`: the queues of a worker with `--queues`.
    """
    queues = None if queues is None else frozenset(queues)
    process_health.servers.probes = server_probes(settings, with_kafka=uses_kafka(kind, queues))
    installation = open_installation(settings).installation
    refuse_if_claimed(settings, installation)
    presence = Presence(settings, registry, kind=kind, node=node, queues=queues)
    presence.announce()
    ring = open_keyring(settings, installation)
    presence.start(ring)
    return Membership(installation, ring, presence)


def join_installation(
    settings: Settings,
    registry: Registry | None,
    *,
    kind: ProcessKind,
    node: str,
    queues: Iterable[str] | None = None,
) -> Membership:
    """Joins as `join_once` does, but waits while Postgres does not answer. SIGTERM ends the process.

    Raises InstallationRefused, also for a wrong setting and a database that does not fit.
    """
    with _ended_by_sigterm():
        return _wait_for_postgres(
            settings, lambda: join_once(settings, registry, kind=kind, node=node, queues=queues)
        )


def wait_for_installation(settings: Settings) -> Installation:
    """Returns the installation of this process's database. Waits while Postgres does not answer.

    Raises InstallationRefused, also for a wrong setting and a database that does not fit.
    """
    return _wait_for_postgres(settings, lambda: open_installation(settings).installation)


def _wait_for_postgres(settings: Settings, action: Callable[[], T]) -> T:
    backoff, pace = Backoff(), LogPace()
    while True:
        now = time.monotonic()
        if backoff.allows(now):
            try:
                return action()
            except psycopg2.Error as error:
                if not allows_waiting_at_start(error):
                    raise InstallationRefused(describe_refusal(error)) from error
                backoff.note_failure(now)
                if pace.allows("postgres"):
                    log.warning("waiting for Postgres", error=error)
        # A restart of the process would not help.
        touch_health(settings.health_file)
        time.sleep(POLL_SECONDS)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
