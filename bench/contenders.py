"""Who is measured: which processes each one consists of, and where it leaves its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.app import SHARDS, TOPIC, account
from bench.peers import faststream_peer, handwritten, handwritten_fold, naive
from tests.harness.local_run import LocalRun, RunningProcess

SLUICE_GUARANTEE = (
    "effectively once per event id, order by entity; a bad event is set aside, others go on;"
    " any process may be killed at any time"
)
NAIVE_EVENTS = 20_000  # it does some 400 a second


@dataclass(frozen=True)
class Layout:
    """Where the rows of a contender are. The outbox's sequence tells cheaply how far it is."""

    identities: str = "sluice.processed_events"
    outbox: str = "sluice.outbox_events"
    rows: str = "public.bench_accounts"
    sequence: str = "sluice.outbox_ids"


def peer_layout(schema: str) -> Layout:
    """Of a peer with tables of its own."""
    names = ("processed_events", "outbox_events", "rows", "outbox_events_id_seq")
    return Layout(*(f"{schema}.{name}" for name in names))


@dataclass(frozen=True)
class Contender:
    """One way to bring events into Postgres. `schema` is a peer's own, None where Sluice's tables serve."""

    name: str
    guarantee: str
    layout: Layout = Layout()
    schema: str | None = None
    workers: int = 0
    """Sluice's, which share the queues; there is a bridge, too, unless `peers` are given."""
    queues: tuple[str, ...] | None = None
    """What each of the workers serves, where they do not share."""
    peers: tuple[tuple[str, ...], ...] = ()
    """Module and arguments of each process."""
    members: int = 1
    """How many processes of it are members of the consumer group."""
    celery_peers: int = 0
    """How many of the peers answer a ping by Celery."""
    relays: bool = False
    """Whether a relay and a beat run, too, and it is done only when all is in Kafka."""
    max_events: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_bridge(self) -> bool:
        """Whether it is Sluice."""
        return not self.peers

    @property
    def answering(self) -> int:
        """How many processes answer a ping by Celery."""
        return self.workers + self.celery_peers + self.relays


def sluice(name: str, workers: int, **environment: str) -> Contender:
    """Sluice with so many workers, which share the queues."""
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
)
HANDWRITTEN = Contender(
    "by hand, plain SQL ×2",
    handwritten.GUARANTEE,
    peer_layout(handwritten.SCHEMA),
    handwritten.SCHEMA,
    peers=(("bench.peers.handwritten",),) * 2,
    members=2,
)
FASTSTREAM = Contender(
    "FastStream ×2",
    faststream_peer.GUARANTEE,
    peer_layout(faststream_peer.SCHEMA),
    faststream_peer.SCHEMA,
    peers=(("bench.peers.faststream_peer",),) * 2,
    members=2,
)
NAIVE = Contender(
    "naive: a task per event",
    naive.GUARANTEE,
    peer_layout(naive.SCHEMA),
    naive.SCHEMA,
    peers=(("bench.peers.naive", "worker"), ("bench.peers.naive", "feed")),
    celery_peers=1,
    max_events=NAIVE_EVENTS,
)
SLUICE_2_RELAYED = replace(SLUICE_2, name="sluice, 2 workers, relay", relays=True)
SLUICE_2_KAFKA_PYTHON_RELAYED = replace(
    SLUICE_2_KAFKA_PYTHON, name="sluice, 2 kafka-python, relay", relays=True
)
FOLD_RELAYED = replace(FOLD, name="by hand, same fold ×2, relay", relays=True)
RELAYED = (SLUICE_2_RELAYED, SLUICE_2_KAFKA_PYTHON_RELAYED, FOLD_RELAYED)
CONTENDERS = (SLUICE_2, SLUICE_2_KAFKA_PYTHON, FOLD, HANDWRITTEN, FASTSTREAM, NAIVE)


class BenchRun(LocalRun):
    """Sluice's processes, peers, and whatever else a measurement needs; all end with the `with` block."""

    def start_module(self, name: str, module: str, *arguments: str) -> RunningProcess:
        """`python -m module`, told where the topic is."""
        told = {"BENCH_TOPIC": TOPIC, "BENCH_GROUP": self.source}
        return self._start(name, module, arguments, extra=told)

    def start_contender(self, contender: Contender) -> None:
        """All its processes; they need not be ready yet."""
        self.start_workers(contender)
        if contender.has_bridge:
            self.start_bridge()
        for number, (module, *arguments) in enumerate(contender.peers, start=1):
            self.start_module(f"peer-{number}", module, *arguments)
        if contender.relays:
            self.start_relay()
            self.start_beat()

    def start_workers(self, contender: Contender) -> None:
        """Its workers alone."""
        for number in range(1, contender.workers + 1):
            self.start_worker(contender.queues, name=f"worker-{number}")

    def group_pids(self) -> dict[str, list[int]]:
        """Pids of what was started here and runs, by kind: bridge, worker, peer, …"""
        found: dict[str, list[int]] = {}
        for process in self.processes:
            if process.exit_code is None:
                found.setdefault(process.name.partition("-")[0], []).append(process.pid)
        return found
