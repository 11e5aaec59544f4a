"""Compares the speed of a rebuild with the live drain of its log, and measures its effect on live traffic."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.commits import read_commit_times
from bench.contenders import SLUICE_2
from bench.drain import patience_seconds
from bench.events import generate_events
from bench.figures import percentile
from bench.ground import Ground, Site
from bench.latency import WARM_UP_SECONDS, send_and_wait
from bench.log import hidden_log
from bench.projected import HANDLERS, bench_balances
from sluice.db.apply.rows import RowStatements, read_all_rows
from sluice.db.migrations.migrate import create_projections
from sluice.db.projections.generation_tables import drop_table
from sluice.db.projections.generations import read_generations
from sluice.db.tables import generation_name
from sluice.tasks.fold.registry import collect_handlers

NAME = bench_balances.name
LIVE_RATE = 1_000  # events a second
WORKERS = 2
POLL_SECONDS = 0.05
WHY = ("--reason", "bench")


@dataclass(frozen=True)
class Rebuilt:
    """The results for one log: drained live, then rebuilt without and with live traffic."""

    events: int
    drain_per_second: float
    rebuild_per_second: float
    """The speed without live traffic."""
    under_load_per_second: float
    quiet_p50_ms: float
    """The time from scheduled send to commit at LIVE_RATE, without a rebuild."""
    quiet_p99_ms: float
    loaded_p50_ms: float
    """The same time while a generation is rebuilt."""
    loaded_p99_ms: float
    loaded_most_ms: float
    complaints: list[str]


def measure_rebuild(ground: Ground, *, events: int, seed: int, say: Callable[[str], None]) -> Rebuilt:
    """Drains the log; rebuilds without other load; sends at a rate; then rebuilds and sends at the
    same time.
    """
    contender = SLUICE_2
    registry = collect_handlers(HANDLERS)
    with (
        ground.site(contender) as site,
        hidden_log(site.servers, generate_events(events, seed=seed)) as reveal,
    ):
        create_projections(site.deployment.urls.database_url, registry.projection_tables, registry.revisions)
        site.run.handlers, site.deployment.registry = HANDLERS, registry
        site.start()
        site.run.start_relay()
        site.run.start_beat()
        visible_at = reveal()
        site.wait_drained(events, timeout_seconds=patience_seconds(events))
        drained = events / (read_commit_times(site.session, contender.layout)[-1] - visible_at)
        say(f"drained: {drained:,.0f} events/s")
        for number in range(1, WORKERS + 1):
            site.run.start_rebuilds(name=f"rebuild-{number}")
        site.wait_up()
        first = _rebuild(site, 2, events)
        say(f"rebuilt: {first:,.0f} events/s")
        complaints = _complaints(site, 2)
        # The live traffic lasts longer than the rebuild under load.
        seconds = WARM_UP_SECONDS + max(10.0, 3 * events / first)
        count = int(LIVE_RATE * seconds)
        quiet = _waits(site, events, count, seed + 1)
        say(f"sent at {LIVE_RATE:,}/s: p50 {percentile(quiet, 0.5) * 1000:.0f} ms")
        started = time.monotonic()
        second: list[float] = []
        loaded = _waits(
            site, events + count, count, seed + 2, meanwhile=lambda: second.append(_rebuild(site, 3, events))
        )
        say(f"rebuilt under load: {second[0]:,.0f} events/s, within {time.monotonic() - started:.0f} s")
        complaints += _complaints(site, 3)
        session = site.session
        for number in (2, 3):
            session.command(f"DELETE FROM sluice.generations WHERE generation = {number}")
            drop_table(session, generation_name(NAME, number))
    return Rebuilt(
        events,
        drained,
        first,
        second[0],
        percentile(quiet, 0.5) * 1_000,
        percentile(quiet, 0.99) * 1_000,
        percentile(loaded, 0.5) * 1_000,
        percentile(loaded, 0.99) * 1_000,
        max(loaded) * 1_000,
        complaints,
    )


def _rebuild(site: Site, generation: int, events: int) -> float:
    """Rebuilds; returns the events per second until the generation caught up with the live generation."""
    done = json.loads(site.run.run_sluice("rebuild", "start", NAME, "--no-wait", "--json", *WHY))
    if done["generation"] != generation:
        raise RuntimeError(f"generation {done['generation']} instead of {generation}")

    def state() -> str:
        return next(g.state for g in read_generations(site.session, NAME) if g.generation == generation)

    deadline = time.monotonic() + patience_seconds(events)
    while (now := state()) == "building":
        if time.monotonic() > deadline:
            raise RuntimeError("the generation did not become ready")
        time.sleep(POLL_SECONDS)
    if now != "ready":
        raise RuntimeError(f"the generation is {now}")
    (row,) = [g for g in read_generations(site.session, NAME) if g.generation == generation]
    assert row.ready_at is not None
    return events / (row.ready_at - row.created_at).total_seconds()


def _waits(
    site: Site,
    first: int,
    count: int,
    seed: int,
    *,
    meanwhile: Callable[[], object] | None = None,
) -> list[float]:
    waits = send_and_wait(site, count=count, rate=LIVE_RATE, seed=seed, first=first, meanwhile=meanwhile)
    return [wait for event, wait in waits if event.number >= first + LIVE_RATE * WARM_UP_SECONDS]


def _complaints(site: Site, generation: int) -> list[str]:
    """Compares the generation with the live generation. The code is the same, so the rows must be equal."""
    session = site.session
    live = read_all_rows(session, RowStatements(bench_balances))
    new = read_all_rows(session, RowStatements(bench_balances, generation_name(NAME, generation)))
    return [] if live == new else [f"generation {generation} differs from the live generation"]
