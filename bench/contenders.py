"""The contenders, with the processes and the tables of each contender."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bench.app import SHARDS, TOPIC, account
from bench.events import Encode, plain_record
from bench.log import PARTITIONS
from bench.peers import debezium, faststream_peer, handwritten, handwritten_fold, naive
from sluice.stack.service import Report
from sluice.testing.servers.local_run import LocalRun, RunningProcess

SLUICE_GUARANTEE = (
    "effectively once per event id, order by entity; a bad event is set aside, others continue;"
    " any process may be killed at any time"
)
NAIVE_ONE_IN = 15  # it applies about 400 events a second


@dataclass(frozen=True)
class Layout:
    """The tables of a contender, and the sequence of its outbox, which is a cheap measure of its progress.

    None means that the contender has no such table.
    """

    identities: str | None = "sluice.processed_events"
    outbox: str | None = "sluice.outbox_events"
    rows: str = "public.bench_accounts"
    sequence: str | None = "sluice.outbox_ids"
    lines: str | None = "public.bench_lines"


def peer_layout(schema: str) -> Layout:
    """Returns the tables of a peer that has its own schema."""
    return Layout(
        f"{schema}.processed_events",
        f"{schema}.outbox_events",
        f"{schema}.rows",
        f"{schema}.outbox_events_id_seq",
        lines=None,
    )


@dataclass(frozen=True)
class Contender:
    """One way to write events into Postgres. `schema` is a peer's schema; None means Sluice's tables."""

    name: str
    guarantee: str
    layout: Layout = Layout()
    schema: str | None = None
    workers: int = 0
    """The number of Sluice's workers that share the queues. A bridge also runs, unless there are `peers`."""
    queues: tuple[str, ...] | None = None
    """The queues of each worker, if the workers do not share the queues."""
    peers: tuple[tuple[str, ...], ...] = ()
    """The module and arguments of each process."""
    members: int = 1
    """The number of processes of the contender in the consumer group."""
    shards: int = SHARDS
    """The number of Sluice's queues."""
    partitions: int = PARTITIONS
    """The number of partitions of the topic."""
    celery_peers: int = 0
    """The number of peers that answer a ping by Celery."""
    survives_poison: bool = True
    """False if one event that can never be applied stops the contender. It then gets a stream without these
    events."""
    encode: Encode = plain_record
    fetch: Callable[[Report], None] | None = None
    """Downloads what the contender needs. Raises StackError with the reason if it is not available."""
    relays: bool = False
    """True if a relay and a beat also run, and a drain ends only when all events are in Kafka."""
    one_in: int = 1
    """The contender gets this part of the events, because it is slow."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_bridge(self) -> bool:
        """Returns True if the contender is Sluice."""
        return not self.peers

    @property
    def answering(self) -> int:
        """Returns the number of processes that answer a ping by Celery."""
        return self.workers + self.celery_peers + self.relays


def sluice(name: str, workers: int, **environment: str) -> Contender:
    """Returns Sluice with this number of workers, which share the queues."""
    return Contender(name, SLUICE_GUARANTEE, workers=workers, environment=environment)


SLUICE_1 = sluice("sluice, 1 worker", 1)
SLUICE_2 = sluice("sluice, 2 workers", 2)
SLUICE_2_KAFKA_PYTHON = sluice("sluice, 2 workers, kafka-python", 2, SLUICE_KAFKA_CLIENT="kafka-python")
SLUICE_4 = sluice("sluice, 4 workers", 4)
SLUICE_2_ON_THE_SAME = replace(
    SLUICE_2,
    name="sluice, 2 workers on the same queues",
    queues=tuple(f"{account.name}.{shard}" for shard in range(SHARDS)),
)
SCALED = (SLUICE_1, SLUICE_2, SLUICE_4, SLUICE_2_ON_THE_SAME)
FOLD = Contender(
    "by hand, same fold ×2",
    handwritten_fold.GUARANTEE,
    peers=(("bench.peers.handwritten_fold",),) * 2,
    members=2,
    survives_poison=False,
)
HANDWRITTEN = Contender(
    "by hand, plain SQL ×2",
    handwritten.GUARANTEE,
    peer_layout(handwritten.SCHEMA),
    handwritten.SCHEMA,
    peers=(("bench.peers.handwritten",),) * 2,
    members=2,
    survives_poison=False,
)
FASTSTREAM = Contender(
    "FastStream ×2",
    faststream_peer.GUARANTEE,
    peer_layout(faststream_peer.SCHEMA),
    faststream_peer.SCHEMA,
    peers=(("bench.peers.faststream_peer",),) * 2,
    members=2,
    survives_poison=False,
)
DEBEZIUM = Contender(
    f"Debezium JDBC sink, {debezium.TASKS} tasks",
    debezium.GUARANTEE,
    Layout(None, None, f"{debezium.SCHEMA}.rows", None, None),
    debezium.SCHEMA,
    peers=(("bench.peers.debezium",),),
    members=debezium.TASKS,
    survives_poison=False,
    encode=debezium.record_with_schema,
    fetch=debezium.fetch,
)
NAIVE = Contender(
    "naive: a task per event",
    naive.GUARANTEE,
    peer_layout(naive.SCHEMA),
    naive.SCHEMA,
    peers=(("bench.peers.naive", "worker"), ("bench.peers.naive", "feed")),
    celery_peers=1,
    one_in=NAIVE_ONE_IN,
    survives_poison=False,
)
SLUICE_2_RELAYED = replace(SLUICE_2, name="sluice, 2 workers, relay", relays=True)
SLUICE_2_KAFKA_PYTHON_RELAYED = replace(
    SLUICE_2_KAFKA_PYTHON, name="sluice, 2 kafka-python, relay", relays=True
)
FOLD_RELAYED = replace(FOLD, name="by hand, same fold ×2, relay", relays=True)
BY_SHARDS = tuple(
    replace(SLUICE_2, name=f"{SLUICE_2.name}, {shards:,} queues", shards=shards)
    for shards in (16, 256, 1_024)
)
OF_500_PARTITIONS = tuple(
    replace(one, name=f"{one.name}, 500 partitions", partitions=500)
    for one in (SLUICE_2, SLUICE_2_KAFKA_PYTHON)
)
RELAYED = (SLUICE_2_RELAYED, SLUICE_2_KAFKA_PYTHON_RELAYED, FOLD_RELAYED)
CONTENDERS = (SLUICE_2, SLUICE_2_KAFKA_PYTHON, HANDWRITTEN, FASTSTREAM, DEBEZIUM, FOLD, NAIVE)
MIXED_CONTENDERS = (SLUICE_2, SLUICE_2_KAFKA_PYTHON, HANDWRITTEN, FASTSTREAM)


class BenchRun(LocalRun):
    """The processes of Sluice, of peers and of a measurement. The `with` block ends them all."""

    def start_module(self, name: str, module: str, *arguments: str) -> RunningProcess:
        """Starts `python -m module`, with the topic in its environment."""
        extra = {"BENCH_TOPIC": TOPIC, "BENCH_GROUP": self.source}
        return self._start(name, module, arguments, extra=extra)

    def start_contender(self, contender: Contender) -> None:
        """Starts all processes of a contender. They may not be ready yet."""
        self.start_workers(contender)
        if contender.has_bridge:
            self.start_bridge()
        for number, (module, *arguments) in enumerate(contender.peers, start=1):
            self.start_module(f"peer-{number}", module, *arguments)
        if contender.relays:
            self.start_relay()
            self.start_beat()

    def start_workers(self, contender: Contender) -> None:
        """Starts only the workers of a contender."""
        for number in range(1, contender.workers + 1):
            self.start_worker(contender.queues, name=f"worker-{number}")

    def group_pids(self) -> dict[str, list[int]]:
        """Returns the pids of the running processes of this run, by kind: bridge, worker, peer, …"""
        found: dict[str, list[int]] = {}
        for process in self.processes:
            if process.exit_code is None:
                found.setdefault(process.name.partition("-")[0], []).append(process.pid)
        return found
