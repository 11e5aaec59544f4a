"""Measures the time until an outgoing event is in Kafka, and the speed and cost of one relay."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from kafka import KafkaProducer

from bench.app import TOPIC, change_account
from bench.commits import read_event_times
from bench.contenders import SLUICE_2_KAFKA_PYTHON_RELAYED, SLUICE_2_RELAYED, Contender
from bench.figures import percentile
from bench.ground import MICROSECONDS, Ground, Site
from bench.latency import RATES, WARM_UP_SECONDS, send_and_wait
from bench.log import read_append_times
from bench.peers.schema import EMITTED_TOPIC
from bench.quiet import wait_quiet
from sluice.db.connection import QUEUE_PLANS, Session
from sluice.kafka_io.producer import ConfluentProducer
from sluice.runtime.gc_tuning import tune_gc
from sluice.runtime.kafka_access import KafkaAccess
from sluice.tasks.events.identity import event_identity
from sluice.tasks.fold.decision import derived_id
from sluice.tasks.outbox.relay import Relay

RELAYED_ROWS = 200_000
PLAIN_RECORDS = 50_000  # for kafka-python's send(), which sends about 15,000 records a second
HANDLER = f"{change_account.__module__}.{change_account.__qualname__}"
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class VisibleLatency:
    """The latency of one contender at one rate in one round, in milliseconds."""

    contender: str
    rate: int
    events: int
    commit_p50_ms: float
    """The time from the commit of the transaction to the record in Kafka."""
    commit_p99_ms: float
    event_p50_ms: float
    """The time from the scheduled send of the event to the resulting record."""
    event_p99_ms: float
    load: float
    """The load average when the measurement began; of several rounds, the highest one."""


@dataclass(frozen=True)
class RelayRate:
    """The records per second, and the CPU microseconds per record, of the sending process."""

    who: str
    records: int
    per_second: float
    cpu_us: float


def middle_of_rounds(latencies: Iterable[VisibleLatency]) -> list[VisibleLatency]:
    """Returns the median of each figure per contender and rate: a stall of the machine affects
    only one round.
    """
    rounds: dict[tuple[str, int], list[VisibleLatency]] = {}
    for one in latencies:
        rounds.setdefault((one.contender, one.rate), []).append(one)
    figures = ("commit_p50_ms", "commit_p99_ms", "event_p50_ms", "event_p99_ms")
    return [
        replace(
            found[0],
            events=sum(one.events for one in found),
            load=max(one.load for one in found),
            **{figure: median(getattr(one, figure) for one in found) for figure in figures},
        )
        for found in rounds.values()
    ]


def measure_visible(
    ground: Ground, *, seconds: int, rounds: int, seed: int, quiet_seconds: float
) -> Iterator[VisibleLatency]:
    """Measures Sluice with its relay at every rate, for `seconds` after the warm-up.

    The order of the contenders alternates between rounds. Waits at most `quiet_seconds` for a low load
    average before each.
    """
    contenders = (SLUICE_2_RELAYED, SLUICE_2_KAFKA_PYTHON_RELAYED)
    for rate in RATES:
        for turn in range(rounds):
            for contender in contenders if turn % 2 else contenders[::-1]:
                load = wait_quiet(quiet_seconds)
                yield _measure_visible(ground, contender, rate, seconds, seed, load)


def _measure_visible(
    ground: Ground, contender: Contender, rate: int, seconds: int, seed: int, load: float
) -> VisibleLatency:
    count = rate * (WARM_UP_SECONDS + seconds)
    with ground.site(contender) as site:
        site.start()
        waits = send_and_wait(site, count=count, rate=rate, seed=seed)
        committed = read_event_times(site.session, contender.layout)
        site.wait_relayed(timeout_seconds=PATIENCE_SECONDS)
        appended = read_append_times(site.servers, EMITTED_TOPIC)
    from_commit, from_event = [], []
    for event, wait in waits:
        if event.number < rate * WARM_UP_SECONDS:
            continue
        identity = event_identity(TOPIC, None, event.key.encode(), event.event_id)
        visible_at = appended[str(derived_id(identity, HANDLER, 2))]
        from_commit.append(visible_at - committed[event.event_id])
        from_event.append(visible_at - (committed[event.event_id] - wait))
    return VisibleLatency(
        contender.name,
        rate,
        len(from_event),
        percentile(from_commit, 0.5) * 1_000,
        percentile(from_commit, 0.99) * 1_000,
        percentile(from_event, 0.5) * 1_000,
        percentile(from_event, 0.99) * 1_000,
        load,
    )


def measure_rates(ground: Ground, *, rounds: int) -> Iterator[RelayRate]:
    """Measures one relay on a full outbox, and the plain `send()` of kafka-python, in turns."""
    tune_gc()  # as in a worker
    for turn in range(rounds):
        for measure in (_relay_rate, _plain_rate) if turn % 2 == 0 else (_plain_rate, _relay_rate):
            with ground.site(SLUICE_2_RELAYED) as site:
                yield measure(site)


def _relay_rate(site: Site) -> RelayRate:
    site.fill_outbox(RELAYED_ROWS)
    session = Session(site.deployment.urls.database_url, application_name="bench relay", plans=QUEUE_PLANS)
    relay = Relay(session, ConfluentProducer(KafkaAccess(site.servers)), source="bench")

    def send_all() -> int:
        sent = 0
        while now := relay.run_once().sent:
            sent += now
        return sent

    rate = _timed("relay", send_all)
    session.close()
    if rate.records != RELAYED_ROWS:
        raise RuntimeError(f"{rate.records} of {RELAYED_ROWS} rows were sent")
    return rate


def _plain_rate(site: Site) -> RelayRate:
    producer = KafkaProducer(bootstrap_servers=site.servers.split(","), acks="all", linger_ms=5)

    def send_all() -> int:
        for number in range(PLAIN_RECORDS):
            key = b"account-%05d" % (number * 7919 % 10_000)
            value = b'{"key":"account-00000","amount_cents":%d}' % number
            producer.send(EMITTED_TOPIC, key=key, value=value, headers=[("ce_id", b"x" * 36)])
        producer.flush()
        return PLAIN_RECORDS

    rate = _timed("kafka-python send()", send_all)
    producer.close()
    return rate


def _timed(who: str, send_all: Callable[[], int]) -> RelayRate:
    began, cpu = time.monotonic(), time.process_time()
    records = send_all()
    seconds, spent = time.monotonic() - began, time.process_time() - cpu
    return RelayRate(who, records, records / seconds, spent * MICROSECONDS / records)
