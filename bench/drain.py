"""Measures the speed and cost of draining an existing log, with all contenders in turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.commits import read_commit_times, read_wal_bytes, verify
from bench.contenders import Contender
from bench.events import Expected
from bench.ground import Ground, cpu_per_event
from bench.log import hidden_log, read_append_times
from bench.peers.schema import EMITTED_TOPIC
from bench.streams import ALL_NEW, Stream
from sluice.stack import StackError
from sluice.testing.servers.deployment import NotSettled

# A contender that drains fewer than 2,000 events a second counts as stuck. The naive contender is slower, but
# it drains few events, for which PATIENCE_SECONDS is enough.
PATIENCE_SECONDS_PER_EVENT = 0.0005
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Drain:
    """The drain by one contender in one round. `seconds` is the time from the moment at which the
    log becomes visible to the last commit.
    """

    contender: str
    guarantee: str
    stream: str
    turn: int
    events: int
    seconds: float
    commits: int | None
    """The number of commits; None if the contender's tables do not show it."""
    cpu_us: dict[str, float]
    """Microseconds of CPU per event, by group of processes."""
    wal_bytes: float
    """Bytes of WAL per event, after a checkpoint: the first change of a page writes the page whole."""
    complaints: list[str]

    @property
    def per_second(self) -> float:
        """Returns the events per second."""
        return self.events / self.seconds


@dataclass(frozen=True)
class Missing:
    """A contender that is not available on this machine."""

    contender: str
    reason: str


def split_available(
    contenders: tuple[Contender, ...], say: Callable[[str], None]
) -> tuple[tuple[Contender, ...], list[Missing]]:
    """Downloads what the contenders need. Returns those that are available, and the others."""
    missing: dict[str, Missing] = {}
    for contender in contenders:
        if contender.fetch is not None:
            try:
                contender.fetch(say)
            except StackError as error:
                reason = " ".join(str(error).split())
                missing[contender.name] = Missing(contender.name, reason)
                say(f"{contender.name}: not available: {reason}")
    return tuple(c for c in contenders if c.name not in missing), list(missing.values())


def drain_in_turns(
    ground: Ground,
    contenders: tuple[Contender, ...],
    *,
    events: int,
    rounds: int,
    seed: int,
    say: Callable[[str], None],
    stream: Stream = ALL_NEW,
) -> Iterator[Drain]:
    """Drains the same events by all contenders in each round, starting with another contender each time.

    Drops a contender that gets stuck, and continues with the others.
    """
    stuck: set[str] = set()
    for turn in range(rounds):
        first = turn % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            if contender.name in stuck:
                continue
            count = events // (contender.one_in * stream.one_in)
            try:
                drained = drain(ground, contender, stream, count, seed, turn)
            except NotSettled as error:
                stuck.add(contender.name)
                say(f"round {turn + 1}: {contender.name}: stuck: {error}")
                continue
            verdict = "; ".join(drained.complaints) or "verified"
            what = f"{contender.name}, {stream.name}"
            say(f"round {turn + 1}: {what}: {drained.per_second:,.0f} events/s, {verdict}")
            yield drained


def drain(ground: Ground, contender: Contender, stream: Stream, count: int, seed: int, turn: int) -> Drain:
    """Drains one log by one contender, from tables without rows to the last commit."""
    expected = Expected()
    events = expected.watch(stream.events(count, seed=seed, with_poison=contender.survives_poison))
    patience = patience_seconds(count)
    with ground.site(contender) as site, hidden_log(site.servers, events, contender.encode) as reveal:
        site.store_identities(stream.identities_before)
        site.start()
        before, wal_before = site.cpu_seconds(), read_wal_bytes(site.session)
        visible_at = reveal()
        site.wait_applied(expected, timeout_seconds=patience)
        cpu = cpu_per_event(before, site.cpu_seconds(), expected.events)
        wal_bytes = (read_wal_bytes(site.session) - wal_before) / expected.events
        commits = read_commit_times(site.session, contender.layout)
        ended_at = commits[-1]
        if contender.relays:
            site.wait_relayed(timeout_seconds=patience)
            cpu = cpu_per_event(before, site.cpu_seconds(), expected.events)
            appended = read_append_times(site.servers, EMITTED_TOPIC)
            ended_at = max(appended.values())
        complaints = verify(site.session, contender.layout, expected, writes=stream.writes)
        if contender.has_bridge and (counted := site.deployment.outcomes()) != expected.outcomes:
            complaints.append(f"outcomes: expected {dict(expected.outcomes)}, counted {dict(counted)}")
        if contender.relays:
            # Sent events are deleted from the outbox.
            complaints = [c for c in complaints if "outgoing events" not in c]
            complaints += [] if len(appended) == count else [f"{len(appended)} events of {count} in Kafka"]
    return Drain(
        contender.name,
        contender.guarantee,
        stream.name,
        turn,
        expected.events,
        ended_at - visible_at,
        None if contender.layout.identities is None else len(commits),
        cpu,
        wal_bytes,
        complaints,
    )


def patience_seconds(count: int) -> float:
    """Returns the seconds after which a drain counts as stuck."""
    return PATIENCE_SECONDS + count * PATIENCE_SECONDS_PER_EVENT
