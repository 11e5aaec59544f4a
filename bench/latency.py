"""Measures the time from an event's scheduled send to its commit, in an open loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.commits import read_event_times
from bench.contenders import HANDWRITTEN, SLUICE_2, SLUICE_2_KAFKA_PYTHON, SLUICE_2_RELAYED, Contender
from bench.events import BenchEvent, generate_events, violating_at
from bench.figures import percentile
from bench.ground import Ground, Site
from bench.pace import scheduled_at
from bench.quiet import wait_quiet

RATES = (1_000, 5_000)
CONTENDERS = (SLUICE_2, SLUICE_2_KAFKA_PYTHON, HANDWRITTEN)
WARM_UP_SECONDS = 3  # excluded from the figures, because connections and plans are new and tables empty
SERVERS_RATE = 5_000
HEAD_START_SECONDS = 3.0  # time for the sender to generate its events
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Latency:
    """The latency of one contender at one rate, in milliseconds."""

    contender: str
    rate: int
    events: int
    p50_ms: float
    p99_ms: float
    most_ms: float
    load: float
    """The load average when the measurement began."""


def warm_servers(ground: Ground, seconds: int) -> None:
    """Warms up the servers for `seconds`, so that they are equally fast for all contenders."""
    with ground.site(SLUICE_2_RELAYED) as site:
        site.start()
        send_and_wait(site, count=SERVERS_RATE * seconds, rate=SERVERS_RATE, seed=0)


def measure_latencies(ground: Ground, *, seconds: int, seed: int, quiet_seconds: float) -> Iterator[Latency]:
    """Measures every contender at every rate, for `seconds` after the warm-up.

    Waits at most `quiet_seconds` for a low load average before each.
    """
    for rate in RATES:
        for contender in CONTENDERS:
            load = wait_quiet(quiet_seconds)
            yield _measure(ground, contender, rate, seconds, seed, load)


def _measure(
    ground: Ground, contender: Contender, rate: int, seconds: int, seed: int, load: float
) -> Latency:
    count = rate * (WARM_UP_SECONDS + seconds)
    with ground.site(contender) as site:
        site.start()
        waits = send_and_wait(site, count=count, rate=rate, seed=seed)
    measured = [wait for event, wait in waits if event.number >= rate * WARM_UP_SECONDS]
    return Latency(
        contender.name,
        rate,
        len(measured),
        percentile(measured, 0.5) * 1_000,
        percentile(measured, 0.99) * 1_000,
        max(measured) * 1_000,
        load,
    )


def send_and_wait(
    site: Site,
    *,
    count: int,
    rate: float,
    seed: int,
    poison_at: int | None = None,
    first: int = 0,
    new_keys: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> list[tuple[BenchEvent, float]]:
    """Sends events from another process. Returns the seconds from scheduled send to commit of each event.

    `first` is the number of events committed before. If `new_keys` is True, each event has a key of its own.
    `meanwhile` is called after the sender's warm-up.
    """
    start_at = time.time() + HEAD_START_SECONDS
    options = {"count": count, "seed": seed, "rate": rate, "start-at": start_at, "first": first}
    if poison_at is not None:
        options["poison-at"] = poison_at
    arguments = [f"--{name}={value}" for name, value in options.items()]
    if new_keys:
        arguments.append("--new-keys")
    site.run.start_module("sender", "bench.pace", f"--bootstrap-servers={site.servers}", *arguments)
    if meanwhile is not None:
        time.sleep(HEAD_START_SECONDS + WARM_UP_SECONDS)
        meanwhile()
    dead = 0 if poison_at is None else 1
    site.wait_drained(first + count, timeout_seconds=count / rate + PATIENCE_SECONDS, dead=dead)
    times = read_event_times(site.session, site.contender.layout)
    kinds = None if poison_at is None else violating_at(poison_at)
    events = generate_events(count, seed=seed, kinds=kinds, first=first, new_keys=new_keys)
    return [
        (event, times[event.event_id] - scheduled_at(place, start_at=start_at, rate=rate))
        for place, event in enumerate(events)
    ]
