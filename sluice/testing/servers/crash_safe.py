"""Kills the processes of a deployment at named points, one after the other, and compares the
results with the log.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from kafka.errors import KafkaError
from redis.exceptions import RedisError

from sluice.admin.init import initialise
from sluice.admin.redis_keys import delete_prefix, open_redis
from sluice.db.admin.written_effects import end_claims, read_ledger_rows
from sluice.kafka_io.config import build_kafka_python_admin
from sluice.stack.patience import patient
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.incoming import Incoming, RawRecord, raw_record
from sluice.testing.servers.adapted_app import app_code, read_journal
from sluice.testing.servers.deployment import Deployment, LogEnds, NotSettled
from sluice.testing.servers.local_run import LocalRun, RunningProcess
from sluice.testing.servers.processes import Start, start_new
from sluice.testing.servers.servers import Servers, own_servers

CRASH_POINTS = (
    "bridge.half_published",
    "bridge.published",
    "bridge.before_progress",
    "apply.begun",
    "apply.before_commit",
    "apply.committed",
    "relay.claimed",
    "relay.handed",
    "relay.acknowledged",
    "relay.deleted",
    "effect.claimed",
    "effect.answered",
    "effect.stored",
)
"""The fault points that an event passes, in this order. The other fault points are in commands."""
JOURNAL = "calls"
PARTITIONS = 2
KILLED = -9
POLL_SECONDS = 0.1
ROUNDS = 3
"""The maximum number of times that the events are sent, while there are points that no process has
reached.
"""
ROUND_SECONDS = 60.0  # maximum for a round on an idle machine, including restarts of processes
SHOWN = 20  # maximum number of differences in the message

_numbers = count(1)


@dataclass(frozen=True)
class CrashReport:
    """The points at which a process was killed, and the points that no process reached."""

    killed: tuple[str, ...]
    not_reached: tuple[str, ...]


def assert_crash_safe(
    handlers: str | Iterable[str],
    events: Sequence[Incoming],
    *,
    points: Sequence[str] = CRASH_POINTS,
    servers: Servers | None = None,
    start: Start = start_new,
) -> CrashReport:
    """Kills processes at the points; fails if this loses or repeats an event, a row or a call.

    Runs a bridge, a worker, a relay, a beat and a worker for effects on real servers, kills each at its
    points, one after the other, and starts it again. Afterwards each record must have one outcome,
    the rows must be the result of applying the log in memory, each outgoing event must have been
    sent, and each call must have been made once. Effects do not run; their calls are only recorded.

    `handlers`: the modules, as in SLUICE_HANDLERS. `servers`: by default the servers whose
    addresses are in the environment, else a stack that this call starts and ends. Raises
    AssertionError with the differences.
    """
    for point in points:
        if point not in CRASH_POINTS:
            raise ValueError(f"unknown point {point!r}; known: {', '.join(CRASH_POINTS)}")
    modules = [handlers] if isinstance(handlers, str) else list(handlers)
    with (
        _servers(servers) as ready,
        TemporaryDirectory(prefix="sluice-crash-") as folder,
        ready.database() as url,
        _deployed(modules, ready, url, Path(folder), start) as deployment,
    ):
        run = _CrashRun(deployment, list(points), Path(folder) / JOURNAL)
        run.play(_records(deployment, events))
        complaints = run.complaints()
        if complaints:
            kills = ", ".join(run.killed) or "no point"
            raise AssertionError(f"after kills at {kills}:\n" + "\n".join(complaints[:SHOWN]))
        return CrashReport(tuple(run.killed), tuple(run.left))


@dataclass
class _Role:
    """A process, and the points at which it must still be killed."""

    begin: Callable[[str], RunningProcess]
    left: list[str]
    process: RunningProcess | None = None


@dataclass
class _CrashRun:
    deployment: Deployment
    points: list[str]
    journal: Path
    killed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        run, queues = self.deployment.run, self.deployment.queues()
        begins: dict[str, Callable[[str], RunningProcess]] = {
            "bridge": lambda faults: run.start_bridge(faults=faults),
            "apply": lambda faults: run.start_worker(queues, faults=faults),
            "relay": lambda faults: run.start_relay(faults=faults),
            # In this pool, a fault ends the whole process.
            "effect": lambda faults: run.start_effects(pool="solo", faults=faults),
        }
        self.roles = [
            _Role(begin, [point for point in self.points if point.partition(".")[0] == name])
            for name, begin in begins.items()
        ]

    @property
    def left(self) -> list[str]:
        """The points at which no process was killed."""
        return [point for point in self.points if point not in self.killed]

    def play(self, records: Sequence[tuple[str, RawRecord]]) -> None:
        """Sends the events and waits until all have outcomes. Repeats this while there are points
        that were not reached.
        """
        self.deployment.run.start_beat()
        for role in self.roles:
            self._start(role)
        for _ in range(ROUNDS):
            self._send(records)
            self._settle(self.deployment.log_ends())
            if not self.left:
                break
        for role in self.roles:
            # A point that is still armed might end the process while the results are read.
            if role.left and role.process is not None:
                role.process.kill()
                role.left = []
                self._start(role)
        self._settle(self.deployment.log_ends())

    def complaints(self) -> list[str]:
        """Returns every difference from the result of the log in memory, and the calls that were
        made twice.
        """
        deployment = self.deployment
        policies = {name: one.declaration.on_unknown for name, one in deployment.registry.effects.items()}
        calls = [(row.effect_key, policies[row.effect]) for row in read_ledger_rows(deployment.session)]
        return deployment.complaints(deployment.tables()) + call_complaints(calls, read_journal(self.journal))

    def _send(self, records: Sequence[tuple[str, RawRecord]]) -> None:
        producer = self.deployment.producer
        futures = [
            producer.send(
                topic, key=raw.key, value=raw.value, headers=[(n, v or b"") for n, v in raw.headers]
            )
            for topic, raw in records
        ]
        for future in futures:
            future.get(timeout=patient(30))

    def _settle(self, ends: LogEnds) -> None:
        """Restarts killed processes until all events, outgoing events and calls have ended."""
        until = time.monotonic() + patient(ROUND_SECONDS)
        while not (self._restart_killed() and self.deployment.is_at_rest(ends)):
            if time.monotonic() > until:
                logs = "\n".join(
                    f"--- {p.name} ({p.exit_code})\n{p.tail()}" for p in self.deployment.run.processes
                )
                raise NotSettled(
                    f"not settled {ROUND_SECONDS:.0f} s after the kills at {', '.join(self.killed)}\n{logs}"
                )
            time.sleep(POLL_SECONDS)

    def _restart_killed(self) -> bool:
        """Returns True if all processes run. Raises AssertionError if a process ended by itself."""
        ended = [
            role for role in self.roles if role.process is not None and role.process.exit_code is not None
        ]
        for role in ended:
            assert role.process is not None
            code = role.process.exit_code
            if code != KILLED or not role.left:
                raise AssertionError(
                    f"{role.process.name} ended with exit code {code}:\n{role.process.tail()}"
                )
            self.killed.append(role.left.pop(0))
            # Without this, its call would be retried or become uncertain only 30 s after the
            # time-out of the call.
            end_claims(self.deployment.session)
            self._start(role)
        return not ended

    def _start(self, role: _Role) -> None:
        role.process = role.begin(f"{role.left[0]}:1:kill" if role.left else "")


def call_complaints(calls: Iterable[tuple[str, str]], made: Iterable[str]) -> list[str]:
    """Returns the errors in the calls. `made` has the keys of the calls that were made. Pure.

    `calls` are the calls of the ledger, with `on_unknown` of their effects. A call with "retry"
    must be made at least once, because the provider detects a repeat by its key. A call with "ask"
    must be made at most once.
    """
    times = Counter(made)
    found: list[str] = []
    for key, on_unknown in calls:
        count_made = times.pop(key, 0)
        if on_unknown == "ask" and count_made > 1:
            found.append(f"call {key}: made {count_made} times")
        if on_unknown == "retry" and count_made == 0:
            found.append(f"call {key}: never made")
    return found + [f"call {key}: made, but not in the ledger" for key in sorted(times)]


@contextmanager
def _servers(given: Servers | None) -> Iterator[Servers]:
    if given is not None:
        yield given
        return
    with own_servers(Path.cwd()) as servers:
        yield servers


@contextmanager
def _deployed(
    modules: Sequence[str], servers: Servers, database_url: str, folder: Path, start: Start
) -> Iterator[Deployment]:
    number = f"{os.getpid()}_{next(_numbers)}"
    module, suffix = f"sluice_crash_{number}", f"-crash-{number.replace('_', '-')}"
    (folder / f"{module}.py").write_text(app_code(modules, suffix, folder / JOURNAL))
    sys.path.insert(0, str(folder))
    try:
        registry = collect_handlers(module)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(module, None)
    urls = servers.urls(database_url)
    initialise(urls, registry, partitions=PARTITIONS)
    with LocalRun(urls, folder, module, source=module, python_path=folder, start=start) as run:
        deployment = Deployment(urls, registry, run, suffix)
        try:
            yield deployment
        finally:
            run.stop_all()
            _clean_up(deployment)
            deployment.close()


def _clean_up(deployment: Deployment) -> None:
    """Deletes the topics of the run and its keys in Redis, because other programs may use the servers."""
    with suppress(RedisError), closing(open_redis(deployment.urls.redis_url)) as client:
        delete_prefix(client, deployment.installation.group)
    with (
        suppress(KafkaError),
        closing(build_kafka_python_admin(deployment.urls.kafka_access)) as admin,
    ):
        admin.delete_topics(sorted(deployment.registry.topics))


def _records(deployment: Deployment, events: Sequence[Incoming]) -> list[tuple[str, RawRecord]]:
    """Returns the records of the events, each with its topic of this run."""
    suffix, topics = deployment.topic_suffix, deployment.registry.topics
    records = []
    for number, event in enumerate(events, start=1):
        topic = topics.get(event.topic + suffix)
        if topic is None:
            declared = ", ".join(sorted(name.removesuffix(suffix) for name in topics))
            raise ValueError(f"unknown topic {event.topic!r}; declared: {declared}")
        records.append((topic.name, raw_record(topic, event.with_id(f"crash-{number}", topic))))
    return records
