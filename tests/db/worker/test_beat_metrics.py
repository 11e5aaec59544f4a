"""Metrics of the leading beat, on a real Postgres and a simulated Kafka."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from uuid import UUID

import pytest
import structlog

from sluice.db.connection import Session
from sluice.db.delivery.leases import Heartbeat, join_workers, try_lease, write_heartbeat
from sluice.db.delivery.partition_reads import write_partition_reads
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.delivery.switches import clear_switch, set_switch
from sluice.db.records import ProcessKind
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.kafka_io.log_range import LogRange, LogRanges
from sluice.kafka_io.log_reader import LogsUnavailable
from sluice.runtime import metrics
from sluice.runtime.metrics import CATALOGUE, Exporter
from sluice.runtime.place import Place
from sluice.runtime.settings import Settings, read_settings
from sluice.worker import beat_metrics
from sluice.worker.beat_metrics import READ_SECONDS, Lead, LeaderCollector, LeaderReader
from tests.db.admin.leaving import insert_call, insert_event
from tests.db.living import add_process, end_process
from tests.db.tasks.applying import Bench
from tests.db.tasks.applying import bench as bench
from tests.db.tasks.failing import fill
from tests.waiting import wait_until

Shown = dict[tuple[str, ...], float]
"""Maps (name, label value if the metric has a label) to the value."""

FOR_ALL = {metrics.BEAT_LEADS.name, metrics.POSTGRES_UP.name}
OF_KAFKA = {metrics.LAG_RECORDS.name, metrics.OLDEST_UNAPPLIED_SECONDS.name}


class Logs:
    """A simulated `LogReader`."""

    def __init__(self) -> None:
        self.ranges: dict[Place, LogRange] = {}
        self.times: dict[Place, float] = {}
        self.is_away = False
        self.opened = self.closed = 0

    def __call__(self, *_: object, **__: object) -> "Logs":
        if self.is_away:
            raise LogsUnavailable("no broker")
        self.opened += 1
        return self

    def read_ranges(self, topics: Iterable[str]) -> LogRanges:
        if self.is_away:
            raise LogsUnavailable("no answer")
        wanted = set(topics)
        return LogRanges({place: log for place, log in self.ranges.items() if place[0] in wanted})

    def read_times(self, offsets: Mapping[Place, int]) -> dict[Place, float]:
        return {place: at for place, at in self.times.items() if place in offsets}

    def close(self) -> None:
        self.closed += 1


class Beat:
    """The metrics collector of a beat. The test sets its clock, and whether the beat leads."""

    def __init__(self, settings: Settings) -> None:
        self.now = 0.0
        self.lead = Lead.LEADS
        self.collector = LeaderCollector(
            LeaderReader(settings), lead=lambda: self.lead, clock=lambda: self.now
        )

    def look(self) -> Shown:
        """Advances the clock, and returns the metrics of a new reading."""
        self.now += READ_SECONDS
        return self.look_again()

    def look_again(self) -> Shown:
        """Returns the metrics without advancing the clock."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in self.collector.collect()
            for sample in family.samples
        }


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> Logs:
    simulated = Logs()
    monkeypatch.setattr(beat_metrics, "LogReader", simulated)
    return simulated


@pytest.fixture
def make_beat(database_url: str, logs: Logs) -> Iterator[Callable[..., Beat]]:
    made: list[Beat] = []

    def make(database_url: str = database_url) -> Beat:
        environ = {
            "SLUICE_DATABASE_URL": database_url,
            "SLUICE_REDIS_URL": "redis://nowhere",
            "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "nowhere",
        }
        made.append(Beat(read_settings(environ)))
        return made[-1]

    with structlog.testing.capture_logs():
        yield make
    for beat in made:
        beat.collector.close()


@pytest.fixture
def beat(make_beat: Callable[..., Beat]) -> Beat:
    return make_beat()


def names(shown: Shown) -> set[str]:
    return {name for name, *_ in shown}


def test_exactly_the_metrics_of_the_catalogue_are_exported(beat: Beat, bench: Bench, logs: Logs) -> None:
    logs.ranges = {("things", 0): LogRange(0, 0)}
    add_process(bench.looking, clock_offset=0.0)
    write_partition_reads(bench.looking, UUID(int=1), reading=[], problems={}, seen=[("things", 0)])
    bench.look("UPDATE sluice.partition_reads SET noted_at = now() - interval '50 s'")
    shown = beat.look()
    assert 50 <= shown.pop((metrics.PARTITION_UNREAD_SECONDS.name, "things", "0", "no_bridge")) < 80
    shown[metrics.PARTITION_UNREAD_SECONDS.name,] = 0
    assert names(shown) == {m.name for m in CATALOGUE if m.exporter in (Exporter.BEAT, Exporter.LEADER)}
    ups = {metrics.BEAT_LEADS.name, metrics.POSTGRES_UP.name, metrics.KAFKA_UP.name}
    assert {name for name, *_ in shown if shown[name, *_]} == {*ups, metrics.UNLEASED_QUEUES.name}


def test_dead_letters_and_parked_entities_are_counted(beat: Beat, bench: Bench) -> None:
    fill(bench)
    shown = beat.look()
    letters = {key[1]: value for key, value in shown.items() if key[0] == metrics.DEAD_LETTERS.name}
    assert letters == {"dead": 3, "conflict": 1, "waiting": 2}
    assert shown[(metrics.PARKED_ENTITIES.name,)] == 2


def test_the_largest_clock_offset_of_each_kind_of_process_is_exported(beat: Beat, bench: Bench) -> None:
    offsets = [(ProcessKind.WORKER, 1.0), (ProcessKind.WORKER, -3_600.5), (ProcessKind.BRIDGE, 3.0)]
    for kind, offset in offsets:
        add_process(bench.looking, kind, clock_offset=offset)
    add_process(bench.looking, ProcessKind.BEAT)
    end_process(bench.looking, add_process(bench.looking, clock_offset=9_999.0))
    found = {
        key[1]: value for key, value in beat.look().items() if key[0] == metrics.CLOCK_OFFSET_SECONDS.name
    }
    assert found == {"worker": 3_600.5, "bridge": 3.0}


def test_outgoing_and_refused_events_are_counted(beat: Beat, bench: Bench) -> None:
    for number in range(1, 4):
        insert_event(bench.looking, number, queue="thing.0", refused="too large" if number == 2 else None)
    bench.look("UPDATE sluice.outbox_events SET created_at = now() - interval '50 s' WHERE id = 1")
    shown = beat.look()
    assert shown[(metrics.OUTBOX_RECORDS.name,)] == 3
    assert shown[(metrics.REFUSED_RECORDS.name,)] == 1
    assert 50 <= shown[(metrics.OUTBOX_OLDEST_SECONDS.name,)] < 80


def test_calls_are_counted_by_state(beat: Beat, bench: Bench) -> None:
    made = {"pending": 1, "running": 2, "failed": 3, "uncertain": 4, "succeeded": 5}
    for state, count in made.items():
        for number in range(count):
            insert_call(bench.looking, f"{state} {number}", state)
    bench.look(
        "UPDATE sluice.executed_side_effects SET due_at = now() - interval '50 s' WHERE state = 'pending'"
    )
    shown = beat.look()
    calls = {key[1]: value for key, value in shown.items() if key[0] == metrics.CALLS.name}
    del made["succeeded"]
    assert calls == made
    assert 50 <= shown[(metrics.OLDEST_DUE_CALL_SECONDS.name,)] < 80


def test_a_pause_of_calls_and_a_halted_queue_are_exported(beat: Beat, bench: Bench) -> None:
    set_switch(bench.looking, EFFECTS_PAUSED, actor="me", reason="test")
    bench.look("UPDATE sluice.queues SET halted_reason = 'why'")
    shown = beat.look()
    assert (shown[(metrics.CALLS_PAUSED.name,)], shown[(metrics.HALTED_QUEUES.name,)]) == (1, 1)
    clear_switch(bench.looking, EFFECTS_PAUSED)
    bench.look("UPDATE sluice.queues SET halted_reason = NULL")
    shown = beat.look()
    assert (shown[(metrics.CALLS_PAUSED.name,)], shown[(metrics.HALTED_QUEUES.name,)]) == (0, 0)


def test_workers_and_unleased_queues_are_counted(beat: Beat, make_session: Callable[[], Session]) -> None:
    looking, first, second = make_session(), make_session(), make_session()
    register_topic(looking, TopicStart("t", "id", "e", 3, {0: 0}))
    for worker in (first, second):
        join_workers(worker)
        write_heartbeat(worker, Heartbeat("w@host", 1, {}, *(None,) * 6))
    assert try_lease(first, "e.1")
    # A queue that resharding left unused has no worker and is not counted.
    looking.command("INSERT INTO sluice.queues (queue, entity) VALUES ('e.3', 'e')")
    shown = beat.look()
    assert (shown[(metrics.SHARING_WORKERS.name,)], shown[(metrics.UNLEASED_QUEUES.name,)]) == (2, 2)


def test_lag_and_age_are_exported_per_topic(beat: Beat, session: Session, logs: Logs) -> None:
    register_topic(session, TopicStart("t", "id", "e", 1, {0: 10, 1: 20}))
    register_topic(session, TopicStart("u", "id-u", "e", 1, {0: 5}))
    # For a partition that no bridge has started, the lag counts from the start of its log.
    logs.ranges = {("t", 0): LogRange(0, 15), ("t", 1): LogRange(0, 20), ("t", 2): LogRange(3, 4)}
    logs.ranges |= {("u", 0): LogRange(0, 5), ("other", 0): LogRange(0, 9)}
    now = time.time()
    logs.times = {("t", 0): now - 30, ("t", 2): now - 40}
    shown = beat.look()
    lags = {key[1]: value for key, value in shown.items() if key[0] == metrics.LAG_RECORDS.name}
    assert lags == {"t": 5 + 0 + 1, "u": 0}
    assert 40 <= shown[metrics.OLDEST_UNAPPLIED_SECONDS.name, "t"] < 70
    assert shown[metrics.OLDEST_UNAPPLIED_SECONDS.name, "u"] == 0
    logs.times = {("t", 0): now + 60}
    assert beat.look()[metrics.OLDEST_UNAPPLIED_SECONDS.name, "t"] == 0, "the clock of a producer is ahead"
    logs.times = {}
    assert (metrics.OLDEST_UNAPPLIED_SECONDS.name, "t") not in beat.look(), "the age is unknown"


def test_metrics_of_kafka_are_missing_without_kafka(beat: Beat, session: Session, logs: Logs) -> None:
    register_topic(session, TopicStart("t", "id", "e", 1, {0: 0}))
    logs.ranges = {("t", 0): LogRange(0, 1)}
    well = beat.look()
    assert names(well) >= OF_KAFKA - {metrics.OLDEST_UNAPPLIED_SECONDS.name}
    for _ in range(2):
        logs.is_away = True
        shown = beat.look()
        assert shown[(metrics.KAFKA_UP.name,)] == 0
        assert names(shown) == names(well) - OF_KAFKA
        logs.is_away = False
        assert beat.look() == well
    assert (logs.opened, logs.closed) == (3, 2)


def test_without_postgres_only_postgres_up_and_beat_leads_are_exported(
    make_beat: Callable[..., Beat],
) -> None:
    beat = make_beat(database_url="postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    assert beat.look() == {(metrics.BEAT_LEADS.name,): 1, (metrics.POSTGRES_UP.name,): 0}
    beat.lead = Lead.UNKNOWN
    assert beat.look() == {(metrics.BEAT_LEADS.name,): 0, (metrics.POSTGRES_UP.name,): 0}


def test_the_next_reading_replaces_a_lost_connection(beat: Beat, session: Session) -> None:
    well = beat.look()
    session.command(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'sluice metrics' AND datname = current_database()"
    )
    assert beat.look() == {(metrics.BEAT_LEADS.name,): 1, (metrics.POSTGRES_UP.name,): 0}
    assert beat.look() == well


def test_a_locked_table_delays_a_reading_only_until_the_statement_timeout(
    beat: Beat, make_session: Callable[[], Session]
) -> None:
    operator = make_session()
    with operator.transaction():
        operator.command("LOCK TABLE sluice.dead_letters")
        # The test holds the lock until the reading ends. Without a time limit, the reading would not end.
        assert beat.look()[(metrics.POSTGRES_UP.name,)] == 0
    assert beat.look()[(metrics.POSTGRES_UP.name,)] == 1


def test_two_scrapes_in_a_short_time_cause_one_reading(beat: Beat, session: Session) -> None:
    before = beat.look()
    session.command("INSERT INTO sluice.entities (entity, shards) VALUES ('e', 1)")
    session.command("INSERT INTO sluice.queues (queue, entity, halted_reason) VALUES ('e.0', 'e', 'why')")
    beat.now += READ_SECONDS / 2
    assert beat.look_again() == before
    beat.now += READ_SECONDS / 2
    assert beat.look_again()[(metrics.HALTED_QUEUES.name,)] == 1


def test_a_beat_that_does_not_lead_exports_only_beat_leads(beat: Beat, session: Session) -> None:
    beat.look()
    assert connections(session) == 1
    beat.lead = Lead.FOLLOWS
    assert beat.look() == {(metrics.BEAT_LEADS.name,): 0}
    wait_until(
        lambda: connections(session) == 0, timeout_seconds=5, what="the connection of the collector has ended"
    )
    beat.lead = Lead.LEADS
    assert names(beat.look_again()) > FOR_ALL


def connections(session: Session) -> int:
    with session.connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE application_name = 'sluice metrics' AND datname = current_database()"
        )
        return int((cursor.fetchone() or (0,))[0])
