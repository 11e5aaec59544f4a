"""Causes faults in the middle of a drain, and measures how long no commit follows each fault."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import msgspec

from bench.commits import read_commit_times, read_queue_commit_times, verify
from bench.contenders import SLUICE_2
from bench.drain import patience_seconds
from bench.events import Expected, generate_events
from bench.figures import first_after, largest_gap
from bench.ground import Ground, Site
from bench.latency import send_and_wait
from bench.log import hidden_log
from sluice.db.connection import Statement
from sluice.db.delivery.leases import read_workers
from sluice.testing.servers.local_run import RunningProcess

HARM_AT_SHARE = 0.25  # share of events begun before the fault: the start is over, enough events remain
START_SECONDS = 60.0
POISON_EVENTS = 2_400
POISON_RATE = 1_000.0

# Records every update that sets a row to an older version.
WATCH_VERSIONS = """
CREATE TABLE went_back (key text, before bigint, after bigint);
CREATE FUNCTION note_going_back() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN INSERT INTO went_back VALUES (old.key, old.version, new.version); RETURN NULL; END';
CREATE TRIGGER watch_versions AFTER UPDATE ON bench_accounts FOR EACH ROW
WHEN (new.version < old.version) EXECUTE FUNCTION note_going_back();
"""
COUNT_WENT_BACK = Statement("went_back", "SELECT count(*) FROM went_back")


@dataclass(frozen=True)
class Fault:
    """One fault: its figures, and complaints about the results in Postgres."""

    name: str
    figures: dict[str, float]
    complaints: list[str]


class Harmed(NamedTuple):
    """A contender in its environment during a drain. A fault adds its figures and complaints to
    this object.
    """

    site: Site
    figures: dict[str, float]
    complaints: list[str]


def cause_faults(ground: Ground, *, events: int, seed: int, say: Callable[[str], None]) -> Iterator[Fault]:
    """Causes all faults, each on a separate deployment; yields the results."""
    for name, cause in FAULTS.items():
        fault = cause(ground, name, events, seed)
        figures = ", ".join(f"{what} {value:.2f}" for what, value in fault.figures.items())
        say(f"{name}: {figures}; {'; '.join(fault.complaints) or 'verified'}")
        yield fault


def wipe_redis(ground: Ground, name: str, events: int, seed: int) -> Fault:
    """Wipes Redis with FLUSHALL."""
    with _drain_half_way(ground, events, seed) as harmed:
        harmed.site.deployment.wipe_redis()
        wiped_at = time.time()
        _wait_drained(harmed.site, events)
        commits = read_commit_times(harmed.site.session, SLUICE_2.layout)
        harmed.figures["longest time without a commit, s"] = largest_gap(commits, wiped_at).seconds
    return Fault(name, harmed.figures, harmed.complaints)


def kill_worker(ground: Ground, name: str, events: int, seed: int) -> Fault:
    """Kills one of two workers with SIGKILL. The other worker takes its queues."""
    with _drain_half_way(ground, events, seed) as harmed:
        worker, queues = _first_worker(harmed.site)
        worker.kill()
        _note_resumed(harmed, queues, time.time(), events)
    return Fault(name, harmed.figures, harmed.complaints)


def stop_worker(ground: Ground, name: str, events: int, seed: int) -> Fault:
    """Sends SIGTERM to one of two workers during a batch. The other worker takes its queues."""
    with _drain_half_way(ground, events, seed) as harmed:
        worker, queues = _first_worker(harmed.site)
        stopped_at = time.time()
        code = worker.stop()
        harmed.figures["time to exit, s"] = time.time() - stopped_at
        if code != 0:
            harmed.complaints.append(f"exit code {code}")
        _note_resumed(harmed, queues, stopped_at, events)
    return Fault(name, harmed.figures, harmed.complaints)


def _first_worker(site: Site) -> tuple[RunningProcess, list[str]]:
    """Returns a worker and the queues that it serves."""
    process = next(p for p in site.run.processes if p.name == "worker-1")
    workers = read_workers(site.session).workers
    return process, next(list(w.leases) for w in workers if w.process_id == process.pid)


def _note_resumed(harmed: Harmed, queues: list[str], since: float, events: int) -> None:
    """Adds to the figures the longest time during which one of these queues had no commit."""
    _wait_drained(harmed.site, events)
    session = harmed.site.session
    resumed = [largest_gap(read_queue_commit_times(session, (queue,)), since).seconds for queue in queues]
    harmed.figures["longest time without a commit of its queues, s"] = max(resumed)


def kill_bridge(ground: Ground, name: str, events: int, seed: int) -> Fault:
    """Kills the bridge and starts a new bridge. Workers may still apply messages of the killed bridge."""
    with _drain_half_way(ground, events, seed, watch_versions=True) as harmed:
        site = harmed.site
        next(p for p in site.run.processes if p.name == "bridge").kill()
        killed_at = time.time()
        new = site.run.start_bridge()
        started_at = _wait_logged(site, new, "partitions started")
        _wait_drained(site, events)
        commits = read_commit_times(site.session, SLUICE_2.layout)
        # Before the new bridge has its partitions, workers commit records that the killed bridge had read.
        resumed_at = first_after(commits, started_at)
        if resumed_at is None:
            harmed.complaints.append("no events were left for the new bridge; use more events")
        else:
            harmed.figures["time from kill to first commit, s"] = resumed_at - killed_at
        harmed.figures["longest time without a commit, s"] = largest_gap(commits, killed_at).seconds
        ((went_back,),) = site.session.run(COUNT_WENT_BACK)
        harmed.figures["rows set to an older version"] = went_back
    return Fault(name, harmed.figures, harmed.complaints)


def send_poison(ground: Ground, name: str, _events: int, seed: int) -> Fault:
    """Sends many events. Postgres refuses the row of one of them; the other events are its neighbours."""
    poison_at = POISON_EVENTS // 2
    with ground.site(SLUICE_2) as site:
        site.start()
        waits = send_and_wait(site, count=POISON_EVENTS, rate=POISON_RATE, seed=seed, poison_at=poison_at)
        outcomes = site.deployment.outcomes()
    longest = max(wait for event, wait in waits if event.number != poison_at)
    wanted = {"applied": POISON_EVENTS - 1, "dead": 1}
    complaints = [] if outcomes == wanted else [f"expected {wanted}, counted {dict(outcomes)}"]
    return Fault(name, {"longest wait of a neighbour, s": longest}, complaints)


FAULTS: dict[str, Callable[[Ground, str, int, int], Fault]] = {
    "Redis wiped": wipe_redis,
    "kill -9 of a worker": kill_worker,
    "SIGTERM to a worker": stop_worker,
    "kill -9 of the bridge": kill_bridge,
    "a poison event": send_poison,
}


@contextmanager
def _drain_half_way(
    ground: Ground, events: int, seed: int, *, watch_versions: bool = False
) -> Iterator[Harmed]:
    expected = Expected()
    made = expected.watch(generate_events(events, seed=seed))
    with ground.site(SLUICE_2) as site, hidden_log(site.servers, made) as reveal:
        if watch_versions:
            site.session.command(WATCH_VERSIONS)
        site.start()
        reveal()
        site.wait_begun(int(events * HARM_AT_SHARE), timeout_seconds=patience_seconds(events))
        harmed = Harmed(site, {}, [])
        yield harmed
        harmed.complaints.extend(verify(site.session, SLUICE_2.layout, expected))


def _wait_drained(site: Site, events: int) -> None:
    site.wait_drained(events, timeout_seconds=patience_seconds(events))


def _wait_logged(site: Site, process: RunningProcess, event: str) -> float:
    """Returns the time when the process logged this event, in seconds since 1970."""
    site.deployment.wait_until(
        lambda: logged_at(process.log.read_text(), event) is not None,
        timeout_seconds=START_SECONDS,
        what=f"{process.name} logs {event!r}",
    )
    found = logged_at(process.log.read_text(), event)
    assert found is not None
    return found


def logged_at(log: str, event: str) -> float | None:
    """Returns the time of the first log line whose event ends with this text, in seconds since 1970."""
    for line in log.splitlines():
        if line.startswith("{") and line.endswith("}"):
            fields = msgspec.json.decode(line)
            if str(fields.get("event", "")).endswith(event):
                return datetime.fromisoformat(fields["timestamp"]).timestamp()
    return None
