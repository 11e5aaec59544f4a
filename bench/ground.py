"""The environment of all measurements: one stack, with an empty deployment for each measurement."""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from celery import Celery

from bench.app import HANDLERS, TOPIC, account
from bench.commits import count_begun, count_identities, count_outgoing, sum_versions
from bench.contenders import BenchRun, Contender, Layout
from bench.cpu import read_times, spent_seconds
from bench.events import Expected
from bench.log import PARTITIONS, is_group_settled, recreate_topic
from bench.peers.schema import EMITTED_TOPIC, create_tables
from sluice.admin.init import initialise
from sluice.db.connection import Session, Statement
from sluice.db.delivery.installation import create_installation
from sluice.db.delivery.leases import read_lease_snapshot
from sluice.db.delivery.progress import register_entity
from sluice.runtime.celery_options import make_celery
from sluice.runtime.service_urls import StackUrls
from sluice.runtime.settings import read_settings
from sluice.stack import Stack
from sluice.tasks.fold.registry import Registry, collect_handlers
from sluice.testing.servers.deployment import Deployment

TEMPLATE = "bench_template"
UP_SECONDS = 60
PING_SECONDS = 1.0
MICROSECONDS = 1_000_000

# The identities are spread over all values, like those of events. They are stored in order, which is fast.
FILL_IDENTITIES = """
INSERT INTO {table} (identity, event_id, topic, "partition", "offset"{columns})
SELECT (lpad(to_hex((1::bigint << 60) / {count} * n), 15, '0') || substr(md5(n::text), 1, 17))::uuid,
       gen_random_uuid()::text, 'filled', 0, n{values}
FROM generate_series(0, {count}::bigint - 1) AS n
"""
FILL_OUTBOX = f"""
INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, headers, payload)
SELECT 'account.' || n % 4, nextval('sluice.outbox_ids'), gen_random_uuid(), '{EMITTED_TOPIC}',
       'account-' || lpad((n * 7919 % 10000)::text, 5, '0'), 'bench.applied',
       '{{{{"ce_time": "2026-01-01T00:00:00.000000+00:00"}}}}',
       convert_to('{{{{"key":"account-00000","amount_cents":' || n || '}}}}', 'UTF8')
FROM generate_series(1, {{count}}) AS n
"""
FILLED_BY_SLUICE = (", data_hash, outcome, topic_id", ", gen_random_uuid(), 'applied', 'filled'")


class Ground:
    """The bench's own stack of services."""

    def __init__(self, root: Path, stack: Stack) -> None:
        self._runs = root / "run"
        self.stack = stack
        self.registry: Registry = collect_handlers(HANDLERS)
        self._sites = 0
        shutil.rmtree(self._runs, ignore_errors=True)

    def prepare(self) -> None:
        """Starts the services, turns on commit times in Postgres, and makes the template database."""
        self.stack.up()
        self._administer("ALTER SYSTEM SET track_commit_timestamp = on")
        self.stack.stop("postgres")
        self.stack.start("postgres")
        self._administer(f"CREATE DATABASE {TEMPLATE}")
        initialise(self._urls(TEMPLATE), self.registry, partitions=PARTITIONS)
        # Sluice would refuse a copy of a database with an installation.
        self._administer("TRUNCATE sluice.installation, sluice.installation_keys", TEMPLATE)

    @contextmanager
    def site(self, contender: Contender) -> Iterator["Site"]:
        """Yields an empty topic, database and Redis for this contender. Ends its processes afterwards."""
        self._sites += 1
        database = f"bench_{self._sites}"
        urls = self._urls(database)
        recreate_topic(urls.kafka_bootstrap_servers, partitions=contender.partitions)
        if contender.relays:
            times = {"message.timestamp.type": "LogAppendTime"}
            recreate_topic(urls.kafka_bootstrap_servers, EMITTED_TOPIC, config=times)
        self._administer(f"CREATE DATABASE {database} TEMPLATE {TEMPLATE}")
        # Without this checkpoint, this contender would wait for writes of the previous contender.
        self._administer("CHECKPOINT")
        with closing(Session(urls.database_url, application_name="bench")) as session:
            create_installation(session, "sluice")
            session.command(f"UPDATE sluice.entities SET shards = {contender.shards}")
            register_entity(session, account.name, contender.shards)
        if contender.schema is not None:
            create_tables(urls.database_url, contender.schema)
        folder = self._runs / f"{self._sites}-{re.sub(r'[^a-z0-9]+', '-', contender.name.lower())}"
        run = BenchRun(urls, folder, HANDLERS, source=database, environment=contender.environment)
        try:
            with run:
                deployment = Deployment(urls, self.registry, run)
                deployment.wipe_redis()
                try:
                    yield Site(self, contender, run, deployment)
                finally:
                    deployment.close()
        finally:
            self._administer(f"DROP DATABASE {database} WITH (FORCE)")

    def cpu_seconds(self, run: BenchRun | None = None) -> dict[str, float]:
        """Returns the CPU seconds so far per group of processes: the services, and the run if given."""
        groups = {} if run is None else run.group_pids()
        groups |= {str(s.name): [s.pid] for s in self.stack.status() if s.pid is not None}
        times = read_times()
        return {group: spent_seconds(times, pids) for group, pids in groups.items()}

    def _urls(self, database: str) -> StackUrls:
        stack = self.stack
        return StackUrls(stack.database_url(database), stack.redis_url(), stack.kafka_bootstrap_servers())

    def _administer(self, statement: str, database: str = "postgres") -> str:
        session = Session(self.stack.database_url(database), application_name="bench admin")
        try:
            with session.connection.cursor() as cursor:
                # A checkpoint or a copy of the template may exceed the session's default time-out.
                cursor.execute("SET statement_timeout = '60s'")
                cursor.execute(statement)
                return str(cursor.fetchone()[0]) if cursor.description else ""  # type: ignore[index]
        finally:
            session.close()


@dataclass
class Site:
    """One contender in its environment."""

    ground: Ground
    contender: Contender
    run: BenchRun
    deployment: Deployment

    @property
    def session(self) -> Session:
        """Returns a session for checks."""
        return self.deployment.session

    @property
    def servers(self) -> str:
        """Returns the bootstrap servers of Kafka."""
        return self.deployment.urls.kafka_bootstrap_servers

    def start(self) -> None:
        """Starts all processes and waits until partitions are assigned and workers listen."""
        self.run.start_contender(self.contender)
        self.wait_up()

    def wait_up(self) -> None:
        """Waits until partitions are assigned and workers listen. Raises NotSettled with the logs' ends."""
        contender, wait = self.contender, self.deployment.wait_until
        group = self.deployment.installation.group if self.contender.has_bridge else self.run.source
        wait(
            lambda: is_group_settled(self.servers, group, contender.members, contender.partitions),
            timeout_seconds=UP_SECONDS,
            what=f"{contender.members} members of group {group} share the partitions",
        )
        if contender.queues is None and contender.workers:
            wait(self._queues_are_shared, timeout_seconds=UP_SECONDS, what="the workers share the queues")
        if contender.answering:
            wait(self._workers_answer, timeout_seconds=UP_SECONDS, what="the workers answer a ping")
        if contender.has_bridge:
            wait(self._bridge_started, timeout_seconds=UP_SECONDS, what="the bridge started its partitions")

    def wait_drained(self, count: int, *, timeout_seconds: float, dead: int = 0) -> None:
        """Waits until `count` events are committed, `dead` of them as dead letters. Raises NotSettled."""
        # Counting costs CPU, so it starts near the end. A dead letter draws no outbox id.
        self.wait_begun(count - dead, timeout_seconds=timeout_seconds)
        self._wait(count_identities, count, timeout_seconds)

    def wait_applied(self, expected: Expected, *, timeout_seconds: float) -> None:
        """Waits until all these events have their outcomes in Postgres. Raises NotSettled."""
        if self.contender.layout.outbox is None:
            self._wait(sum_versions, sum(expected.versions.values()), timeout_seconds)
            return
        self.wait_begun(expected.applied, timeout_seconds=timeout_seconds)
        if expected.identities == expected.applied and not self.contender.relays:
            # Millions of older identities would make it expensive to count identities.
            self._wait(count_outgoing, expected.applied, timeout_seconds)
        else:
            self._wait(count_identities, expected.identities, timeout_seconds)
        if self.contender.has_bridge:
            self._wait(lambda _, __: self.deployment.outcomes().total(), expected.events, timeout_seconds)

    def _wait(self, count: Callable[[Session, Layout], int], least: int, timeout_seconds: float) -> None:
        self.deployment.wait_until(
            lambda: count(self.session, self.contender.layout) >= least,
            timeout_seconds=timeout_seconds,
            what=f"the tables show all {least} events",
        )

    def fill_outbox(self, count: int) -> None:
        """Stores this number of outgoing events of Sluice, like those of bench.app, with 10,000 keys."""
        self.session.command("SET statement_timeout = 0")
        self.session.command(FILL_OUTBOX.format(count=count))
        self.session.command("RESET statement_timeout")

    def store_identities(self, count: int) -> None:
        """Stores this number of identities of other events."""
        if count == 0:
            return
        self.session.command("SET statement_timeout = 0")
        more = FILLED_BY_SLUICE if self.contender.schema is None else ("", "")
        self.session.command(
            FILL_IDENTITIES.format(
                table=self.contender.layout.identities, count=count, columns=more[0], values=more[1]
            )
        )
        self.session.command(f"VACUUM (ANALYZE) {self.contender.layout.identities}")
        self.session.command("CHECKPOINT")
        self.session.command("RESET statement_timeout")

    def wait_relayed(self, *, timeout_seconds: float) -> None:
        """Waits until the outbox is empty. Raises NotSettled."""
        statement = Statement("any_left", f"SELECT EXISTS (SELECT FROM {self.contender.layout.outbox})")
        self.deployment.wait_until(
            lambda: self.session.run(statement) == [(False,)],
            timeout_seconds=timeout_seconds,
            what="the outbox is empty",
        )

    def wait_begun(self, count: int, *, timeout_seconds: float) -> None:
        """Waits until workers have begun about this number of events. Raises NotSettled."""
        self.deployment.wait_until(
            lambda: count_begun(self.session, self.contender.layout) >= count,
            timeout_seconds=timeout_seconds,
            what=f"{count} events are begun",
        )

    def cpu_seconds(self) -> dict[str, float]:
        """Returns CPU seconds per group of processes, so far."""
        return self.ground.cpu_seconds(self.run)

    def process_cpu_seconds(self) -> dict[str, float]:
        """Returns CPU seconds per process of the contender and per server, so far."""
        times = read_times()
        own = {p.name: spent_seconds(times, [p.pid]) for p in self.run.processes}
        return own | self.ground.cpu_seconds()

    def _workers_answer(self) -> bool:
        settings = read_settings(self.run.environ())
        ours = make_celery(settings, lambda: self.deployment.installation)
        # A peer that uses plain Celery has no prefix. In this process, its channel is that of Sluice, which
        # needs a limit.
        plain = Celery(broker=self.deployment.urls.redis_url)
        plain.conf.broker_transport_options = {"unacked_restore_limit": 100}
        with plain if self.contender.celery_peers else ours as app:
            return len(app.control.ping(timeout=PING_SECONDS)) >= self.contender.answering

    def _queues_are_shared(self) -> bool:
        held = Counter(lease.holder for lease in read_lease_snapshot(self.session).leases)
        counts = held.values()
        return None not in held and len(held) == self.contender.workers and max(counts) - min(counts) <= 1

    def _bridge_started(self) -> bool:
        logs = [p.log.read_text() for p in self.run.processes if p.name == "bridge" and p.exit_code is None]
        started = re.findall(rf"{TOPIC}\[\d+\] at", "".join(logs))
        return len(started) >= self.contender.partitions


def cpu_per_event(before: dict[str, float], after: dict[str, float], events: int) -> dict[str, float]:
    """Returns microseconds per event and group, between two readings of the same processes."""
    return {group: (after[group] - spent) * MICROSECONDS / events for group, spent in before.items()}
