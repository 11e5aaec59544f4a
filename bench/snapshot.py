"""Measures the cost and the delay of events while another session holds an old snapshot.

While the snapshot exists, Postgres cannot remove the old versions of changed rows. A query that reads old
versions becomes slower every second.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

from bench.contenders import SLUICE_2_RELAYED
from bench.figures import percentile
from bench.ground import MICROSECONDS, Ground, Site
from bench.latency import HEAD_START_SECONDS, WARM_UP_SECONDS, send_and_wait
from sluice.db.connection import Session

RATE = 1_000
# Events that are applied before. Otherwise the cost would also grow because the tables are new.
FILLED_EVENTS, FILL_RATE = 200_000, 10_000
# The sender continues for this time after the last window, because readings take time.
SPARE_SECONDS = 1.0
# The number of windows while the snapshot is held. The first and the last window are compared with the time
# before the snapshot.
WINDOWS = 5


@dataclass(frozen=True)
class Window:
    """A part of the run. `held_seconds`: age of the snapshot at the end of the window; 0: no snapshot."""

    held_seconds: float
    postgres_us: float
    """Postgres' CPU microseconds per event that was sent in the window."""
    p50_ms: float
    p99_ms: float
    """The time from scheduled send to commit."""


@dataclass(frozen=True)
class Reading:
    """The CPU seconds that Postgres has used until a time, which is given in seconds since 1970."""

    at: float
    postgres_seconds: float


def measure_snapshot(ground: Ground, *, seconds: int, seed: int, say: Callable[[str], None]) -> list[Window]:
    """Sends events at RATE: for a fifth of `seconds` without a snapshot, then for `seconds` with one.

    Each event writes a new row, because the old versions of a user's row would add a cost of their own.
    """
    window = seconds / WINDOWS
    readings: list[Reading] = []
    with ground.site(SLUICE_2_RELAYED) as site:
        site.start()
        send_and_wait(site, count=FILLED_EVENTS, rate=FILL_RATE, seed=seed, new_keys=True)
        say(f"{FILLED_EVENTS:,} events applied")

        def hold() -> None:
            readings.append(_read(site))
            first = readings[0].at
            _sleep_until(first + window)
            readings.append(_read(site))
            with closing(old_snapshot(site.deployment.urls.database_url)):
                for number in range(1, WINDOWS + 1):
                    _sleep_until(first + window * (number + 1))
                    readings.append(_read(site))
                    say(f"snapshot held for {window * number:.0f} s")

        count = int(RATE * (WARM_UP_SECONDS + (WINDOWS + 1) * window + SPARE_SECONDS))
        began_at = time.time() + HEAD_START_SECONDS
        waits = send_and_wait(
            site, count=count, rate=RATE, seed=seed + 1, first=FILLED_EVENTS, new_keys=True, meanwhile=hold
        )
    # A window contains the events that were scheduled in its time: event N at `began_at + N / RATE`.
    return windows_of(readings, began_at, [wait for _, wait in waits])


def windows_of(readings: Sequence[Reading], began_at: float, waits: Sequence[float]) -> list[Window]:
    """Returns a window for each pair of consecutive readings between which events were sent.

    `waits` are the delays in seconds of events that were sent at RATE from `began_at`.
    """
    found = []
    for before, after in pairwise(readings):
        first, last = (max(0, int((one.at - began_at) * RATE)) for one in (before, after))
        part = waits[first:last]
        if not part:
            continue  # On a busy machine, readings may be later than the last event.
        held = after.at - readings[1].at
        spent = after.postgres_seconds - before.postgres_seconds
        found.append(
            Window(
                held,
                spent * MICROSECONDS / len(part),
                percentile(part, 0.5) * 1_000,
                percentile(part, 0.99) * 1_000,
            )
        )
    return found


def old_snapshot(database_url: str) -> Session:
    """Returns a session with a transaction that keeps its snapshot until it is closed, as pg_dump does."""
    session = Session(
        database_url,
        application_name="bench snapshot",
        settings={"idle_in_transaction_session_timeout": "0"},
    )
    session.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM bench_accounts")
    return session


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.time()))


def _read(site: Site) -> Reading:
    return Reading(time.time(), site.ground.cpu_seconds()["postgres"])
