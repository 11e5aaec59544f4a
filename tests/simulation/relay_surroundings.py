"""The simulated Postgres, Kafka log and failures around the relays, and the checks of the invariants.

The hint of a queue is an id. Every row with this id or a lower id was sent.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeAlias
from uuid import UUID

from sluice.db.records import WaitingRow
from sluice.kafka_io.record_types import OutgoingRecord

QUEUES = ("a.0", "a.1")

Place: TypeAlias = tuple[str, str, str]


class Broken(AssertionError):
    """Raised when a guarantee is violated. The message names the guarantee and the seed."""


class Crash(Exception):
    """Raised where the process of a relay ends."""


@dataclass
class Postgres:
    """The committed state: copied for a snapshot, and replaced to restore an older state."""

    rows: dict[tuple[str, int], WaitingRow] = field(default_factory=dict)
    refusals: dict[tuple[str, int], WaitingRow] = field(default_factory=dict)
    hints: dict[str, int] = field(default_factory=dict)
    last_id: int = 0
    committed: list[WaitingRow] = field(default_factory=list)
    """Every row that was committed before this state."""


class Holder(Protocol):
    """A session that holds locks on a server."""

    held: set[str]
    server: Postgres | None


class Surroundings(ABC):
    """The surroundings of the relays. One seed determines them. A subclass chooses the events."""

    sessions: Sequence[Holder]
    crashes: float
    """The probability that a process ends at a fault point."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.now = 0.0
        self.chaos = True
        self.pg = Postgres()
        self.log: list[UUID] = []
        self.late: list[OutgoingRecord] = []
        self.poison: set[UUID] = set()
        self.rows: dict[UUID, WaitingRow] = {}
        """Every row that was committed in any state of Postgres."""
        self.losses = self.rng.choice((0.0, 0.02, 0.1))
        self.silence = self.rng.choice((0.0, 0.02, 0.2))
        self.refuses = self.rng.choice((0.0, 0.05, 0.3))
        self.poll_seconds = self.rng.choice(((0.001,), (0.001, 0.01, 0.1), (0.01, 0.3)))

    @abstractmethod
    def meanwhile(self) -> None:
        """Runs, between two steps of a relay, events that the relay does not cause."""

    def arrive(self, record: OutgoingRecord) -> None:
        self.log.append(event_id(record))

    def reach(self, name: str) -> None:
        """Raises Crash at random, because the process may end at this fault point."""
        if self.unlucky(self.crashes):
            raise Crash(name)

    def unlucky(self, chance: float) -> bool:
        """Returns True with probability `chance`, but never in the quiet phase at the end."""
        return self.chaos and self.rng.random() < chance

    def check_handed(self, session: Holder, record: OutgoingRecord) -> None:
        """Checks that a relay that holds the lock sends no row that another relay has sent and deleted."""
        row = self.rows[event_id(record)]
        is_locked = session.server is self.pg and row.queue in session.held
        if is_locked and (row.queue, row.id) not in self.pg.rows:
            raise Broken(f"{self}: {row.queue} {row.id} is sent again under the lock")

    def check_hints(self, pg: Postgres) -> None:
        """Checks that every hint is below all remaining rows of its queue."""
        for queue, number in pg.rows:
            if number <= pg.hints.get(queue, 0):
                raise Broken(f"{self}: the saved hint of {queue} is not below the remaining row {number}")

    def check_log(self) -> None:
        """Checks that exactly the committed rows arrived, and the rows of each key first arrived in order."""
        first: dict[UUID, int] = {}
        for position, event in enumerate(self.log):
            first.setdefault(event, position)
        if strangers := first.keys() - self.rows.keys():
            raise Broken(f"{self}: sent, but never committed: {strangers}")
        of_key: defaultdict[Place, list[int]] = defaultdict(list)
        for row in self.pg.committed:
            event = UUID(row.event_id)
            if event not in first:
                raise Broken(f"{self}: {row.queue} {row.id} was never sent")
            if row.key is not None:
                of_key[place_of(row)].append(first[event])
        for place, positions in of_key.items():
            if positions != sorted(positions):
                raise Broken(f"{self}: {place} is out of order: {positions}")

    def is_free(self, row: WaitingRow) -> bool:
        """Returns True if neither this row nor an earlier row of its key is refused or will be refused."""
        stuck = [
            other
            for place, other in self.pg.rows.items()
            if UUID(other.event_id) in self.poison or place in self.pg.refusals
        ]
        return row not in stuck and not any(
            other.id < row.id and row.key is not None and place_of(other) == place_of(row) for other in stuck
        )

    def __str__(self) -> str:
        return f"seed {self.seed} at {self.now:.3f} s"


def copied(pg: Postgres) -> Postgres:
    """Returns a copy of the state. Rows are shared, because they never change."""
    return Postgres(dict(pg.rows), dict(pg.refusals), dict(pg.hints), pg.last_id, list(pg.committed))


def place_of(row: WaitingRow) -> Place:
    """Returns the queue, topic and key of a row. Rows that are equal in these are sent in order."""
    return row.queue, row.topic, row.key or ""


def event_id(record: OutgoingRecord) -> UUID:
    """Returns the event id of a record."""
    return UUID(str(record.headers["ce_id"]))
