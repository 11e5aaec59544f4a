"""Measures the time from an event's scheduled send to its commit, in an open loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.commits import read_event_times
from bench.contenders import FOLD, SLUICE_2, SLUICE_2_KAFKA_PYTHON, SLUICE_2_RELAYED, Contender
from bench.events import BenchEvent, generate_events
from bench.figures import percentile
from bench.ground import Ground, Site
from bench.pace import scheduled_at

RATES = (1_000, 5_000)
CONTENDERS = (SLUICE_2, SLUICE_2_KAFKA_PYTHON, FOLD)
WARM_UP_SECONDS = 3  # excluded from the figures, because connections and plans are new and tables empty
SERVERS_RATE, SERVERS_SECONDS = 5_000, 25  # a cold JVM uses twice the CPU for the same requests
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


def warm_servers(ground: Ground) -> None:
    """Warms up the servers, so that they are equally fast for all contenders."""
    with ground.site(SLUICE_2_RELAYED) as site:
        site.start()
        send_and_wait(site, count=SERVERS_RATE * SERVERS_SECONDS, rate=SERVERS_RATE, seed=0)


def measure_latencies(ground: Ground, *, seconds: int, seed: int) -> Iterator[Latency]:
    """Measures every contender at every rate, for `seconds` after the warm-up."""
    for rate in RATES:
        for contender in CONTENDERS:
            yield _measure(ground, contender, rate, seconds, seed)


def _measure(ground: Ground, contender: Contender, rate: int, seconds: int, seed: int) -> Latency:
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
    )


def send_and_wait(
    site: Site,
    *,
    count: int,
    rate: float,
    seed: int,
    poison_at: int | None = None,
    first: int = 0,
    meanwhile: Callable[[], object] | None = None,
) -> list[tuple[BenchEvent, float]]:
    """Sends events from another process. Returns the seconds from scheduled send to commit of each event.

    `first` is the number of events committed before. `meanwhile` is called after the sender's warm-up.
    """
    start_at = time.time() + HEAD_START_SECONDS
    options = {"count": count, "seed": seed, "rate": rate, "start-at": start_at, "first": first}
    if poison_at is not None:
        options["poison-at"] = poison_at
    arguments = [f"--{name}={value}" for name, value in options.items()]
    site.run.start_module("sender", "bench.pace", f"--bootstrap-servers={site.servers}", *arguments)
    if meanwhile is not None:
        time.sleep(HEAD_START_SECONDS + WARM_UP_SECONDS)
        meanwhile()
    dead = 0 if poison_at is None else 1
    site.wait_drained(first + count, timeout_seconds=count / rate + PATIENCE_SECONDS, dead=dead)
    times = read_event_times(site.session, site.contender.layout)
    events = generate_events(count, seed=seed, poison_at=poison_at, first=first)
    return [
        (event, times[event.event_id] - scheduled_at(place, start_at=start_at, rate=rate))
        for place, event in enumerate(events)
    ]
