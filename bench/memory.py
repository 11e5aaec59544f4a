"""Measures the memory of a bridge and a worker while a million events wait."""

import time
from dataclasses import dataclass

from bench.contenders import SLUICE_1
from bench.cpu import read_memory_mib
from bench.events import SMALL_NOTE_CHARACTERS, generate_events
from bench.ground import Ground, Site
from bench.log import PARTITIONS, hidden_log, is_group_settled
from sluice.testing.servers.local_run import RunningProcess

DRAINED_EVENTS = 100_000
FIRST_SHARE = 0.2  # share of the events after which the worker's memory must not grow
QUIET_SECONDS = 5.0
QUIET_MIB = 1.0
LOOK_SECONDS = 0.5
FILLING_SECONDS = 120.0
UP_SECONDS = 60.0


@dataclass(frozen=True)
class Memory:
    """Resident memory in MiB. `bridge_at_start` and `bridge_peak` are measured before a worker starts."""

    waiting_events: int
    bridge_at_start: float
    bridge_peak: float
    bridge_peak_draining: float
    drained_events: int
    worker_peak_early: float
    worker_peak: float


def measure_memory(ground: Ground, *, waiting: int, seed: int) -> Memory:
    """Measures a bridge with a log of small events and no worker, then a worker that drains some of them."""
    drained = min(DRAINED_EVENTS, waiting)
    events = generate_events(waiting, seed=seed, note_characters=SMALL_NOTE_CHARACTERS)
    with ground.site(SLUICE_1) as site, hidden_log(site.servers, events) as reveal:
        bridge = site.run.start_bridge()
        site.deployment.wait_until(
            lambda: is_group_settled(site.servers, site.deployment.installation.group, 1, PARTITIONS),
            timeout_seconds=UP_SECONDS,
            what="the bridge has its partitions",
        )
        at_start, _ = read_memory_mib(bridge.pid)
        reveal()
        peak = _wait_until_full(bridge)
        site.run.start_workers(SLUICE_1)
        worker = site.run.processes[-1]
        early = _peak_after(site, worker, int(drained * FIRST_SHARE))
        late = _peak_after(site, worker, drained)
        _, peak_draining = read_memory_mib(bridge.pid)
    return Memory(waiting, at_start, peak, peak_draining, drained, early, late)


def _wait_until_full(bridge: RunningProcess) -> float:
    """Waits until the bridge's peak memory has not risen for QUIET_SECONDS; returns the peak."""
    _, peak = read_memory_mib(bridge.pid)
    quiet_since, deadline = time.monotonic(), time.monotonic() + FILLING_SECONDS
    while (now := time.monotonic()) - quiet_since < QUIET_SECONDS and now < deadline:
        time.sleep(LOOK_SECONDS)
        _, found = read_memory_mib(bridge.pid)
        if found > peak + QUIET_MIB:
            peak, quiet_since = found, time.monotonic()
    return read_memory_mib(bridge.pid)[1]


def _peak_after(site: Site, worker: RunningProcess, events: int) -> float:
    site.wait_begun(events, timeout_seconds=FILLING_SECONDS)
    return read_memory_mib(worker.pid)[1]
