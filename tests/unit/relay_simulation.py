"""A world in one thread: several relays on one outbox, and everything around them that can go wrong.

Postgres and Kafka are simulated; `Relay` and `Page` are the real ones. What must hold at every step is
checked at once; what must hold in the end is checked when all is quiet.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias
from unittest import mock
from uuid import UUID

import tasks.relay
from db.relay import WaitingRow
from tasks.outgoing import OutgoingRecord
from tasks.page import Delivery
from tasks.producer import Delivered

QUEUES, TOPICS, KEYS = ("a.0", "a.1"), ("t", "u"), ("k", "l", None)
RELAYS = 3
QUIET_TURNS = 400
# Small, so that pages are cut short and records are given up all the time.
PAGE_ROWS, LEAST_PAGE_ROWS = 8, 3
HINTS = tasks.relay.HINT_SECONDS

Place: TypeAlias = tuple[str, str, str]


class Broken(AssertionError):
    """A promise was broken; the message says which, and in which world."""


class Crash(Exception):
    """The process of a relay ends here."""


class PostgresAway(Exception):
    """The connection is lost, or its server is no longer the right one."""


class TimedOut(Exception):
    """The statement was cancelled and its transaction undone; the connection is as good as before."""


@dataclass
class Postgres:
    """Its committed state: copied for a snapshot, replaced to move it back."""

    rows: dict[tuple[str, int], WaitingRow] = field(default_factory=dict)
    refusals: dict[tuple[str, int], WaitingRow] = field(default_factory=dict)
    hints: dict[str, int] = field(default_factory=dict)
    last_id: int = 0
    committed: list[WaitingRow] = field(default_factory=list)
    """Every row that this state, or one before it, ever held."""


class Outbox:
    """A session, and the functions of `db.relay` over it."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.server: Postgres | None = None
        self._connection: object = None
        self._writes: list[Callable[[Postgres], None]] = []
        self.held: set[str] = set()

    @property
    def connection(self) -> object:
        if self._connection is None:
            self._connection, self.server = object(), self.world.pg
        return self._connection

    def close(self) -> None:
        """Ends the connection: what it held and had not committed is gone."""
        self._connection = self.server = None
        self.roll_back()

    def roll_back(self) -> None:
        self.held.clear()
        self._writes.clear()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            yield
            self.world.reach("before commit")
            pg = self._reach_postgres()
            for write in self._writes:
                write(pg)
            self.world.check_hints(pg)
            if self.world.unlucky(0.02):
                self.close()
                raise PostgresAway("simulated: committed, but who knows")
        finally:
            self.roll_back()

    def read_sent_through(self) -> dict[str, int]:
        pg = self._reach_postgres()
        return {queue: pg.hints.get(queue, 0) for queue in QUEUES}

    def lock_waiting(self, sent_through: Mapping[str, int]) -> dict[str, int | None]:
        pg = self._reach_postgres()
        waiting = {q for q, number in pg.rows if number > sent_through.get(q, number)}
        # The statement's snapshot is older than its locks.
        self.snapshot = copied(pg)
        self.world.meanwhile()
        self._reach_postgres()
        taken = {queue for other in self.world.sessions for queue in other.held if other.server is pg}
        self.held |= waiting - taken
        self.world.meanwhile()
        # The refusals in a statement of their own.
        return self.lowest_refused(self._reach_postgres())

    def lowest_refused(self, pg: Postgres) -> dict[str, int | None]:
        return {q: min((n for of, n in pg.refusals if of == q), default=None) for q in sorted(self.held)}

    def read_page(
        self, sent_through: Mapping[str, int], *, without_topics: Sequence[str], limit: int
    ) -> list[WaitingRow]:
        self.world.meanwhile()
        pg = self.page_state(self._reach_postgres())
        rows: list[WaitingRow] = []
        for queue in sorted(sent_through):
            rows += [
                row
                for (of, number), row in sorted(pg.rows.items())
                if of == queue
                and number > sent_through[queue]
                and row.topic not in without_topics
                and not self.is_held(pg, row)
            ][:limit]
        return rows

    def page_state(self, pg: Postgres) -> Postgres:
        return pg

    def is_held(self, pg: Postgres, row: WaitingRow) -> bool:
        if row.key is None:
            return (row.queue, row.id) in pg.refusals
        return any(place_of(refused) == place_of(row) for refused in pg.refusals.values())

    def delete_sent(self, queue: str, ids: Sequence[int]) -> None:
        self._reach_postgres()
        for number in ids:
            self._writes.append(lambda pg, n=number: pg.rows.pop((queue, n), None))  # type: ignore[misc]

    def insert_refusals(self, refused: Sequence[tuple[WaitingRow, str]]) -> None:
        for row, _ in refused:
            if UUID(row.event_id) not in self.world.poison and self.server is self.world.pg:
                raise Broken(f"{self.world}: {row.queue} {row.id} is refused because of its company")
            self._writes.append(lambda pg, row=row: pg.refusals.setdefault((row.queue, row.id), row))  # type: ignore[misc]

    def save_sent_through(self, sent_through: Mapping[str, int]) -> None:
        for queue, hint in sent_through.items():
            self._writes.append(
                lambda pg, q=queue, h=hint: pg.hints.update({q: max(h, pg.hints.get(q, 0))})  # type: ignore[misc]
            )

    def _reach_postgres(self) -> Postgres:
        assert self.connection is not None
        if self.server is not self.world.pg or self.world.unlucky(0.01):
            self.close()
            raise PostgresAway("simulated")
        if self.world.unlucky(0.01):
            raise TimedOut("simulated")
        return self.world.pg


class Broker:
    """A producer of one relay, and the broker behind it. Of different keys any order is possible."""

    def __init__(self, world: "World", session: Outbox) -> None:
        self.world = world
        self.session = session
        self.in_flight: list[tuple[OutgoingRecord, Delivered]] = []

    def send(self, record: OutgoingRecord, delivered: Delivered) -> None:
        self.world.check_handed(self.session, record)
        if self.world.unlucky(0.01):
            delivered(Delivery.AWAY, "simulated: not taken")
        else:
            self.in_flight.append((record, delivered))

    def poll(self, timeout_seconds: float) -> None:
        world, rng = self.world, self.world.rng
        world.now += rng.choice(world.poll_seconds) if world.chaos else 0.001
        world.meanwhile()
        if not self.in_flight or world.unlucky(world.silence):
            world.now += timeout_seconds
            return
        alone = len(self.in_flight) == 1
        record, delivered = self.in_flight.pop(rng.randrange(len(self.in_flight)))
        event = event_id(record)
        if event in world.poison or (not alone and world.unlucky(0.05)):
            delivered(Delivery.REFUSED, "simulated")
        elif world.unlucky(world.losses):
            # Arrived or not, or later: nobody knows.
            rng.choice((world.arrive, world.late.append, lambda _: None))(record)
            delivered(Delivery.AWAY, "simulated")
        else:
            world.arrive(record)
            world.reach("acknowledgement on its way")
            delivered(Delivery.ACKNOWLEDGED, "")

    def close(self) -> None:
        for record, _ in self.in_flight:
            self.world.rng.choice((self.world.late.append, lambda _: None))(record)
        self.in_flight.clear()


@dataclass(frozen=True)
class Shell:
    """The parts a mutant replaces: the relay's module, whole, and the outbox."""

    module: ModuleType = tasks.relay
    outbox: type[Outbox] = Outbox


class World:
    """Everything, from one seed."""

    def __init__(self, seed: int, shell: Shell) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.shell = shell
        self.now = 0.0
        self.chaos = True
        self.depth = 0
        self.pg = Postgres()
        self.older: list[Postgres] = []
        self.log: list[UUID] = []
        self.late: list[OutgoingRecord] = []
        self.poison: set[UUID] = set()
        self.rows: dict[UUID, WaitingRow] = {}
        """Every row ever committed, in whatever state of Postgres."""
        self.losses = self.rng.choice((0.0, 0.02, 0.1))
        self.silence = self.rng.choice((0.0, 0.02, 0.2))
        self.refuses = self.rng.choice((0.0, 0.05, 0.3))
        self.poll_seconds = self.rng.choice(((0.001,), (0.001, 0.01, 0.1), (0.01, 0.3)))
        self.happenings: tuple[Callable[[], None], ...] = (
            self.turn,
            self.commit,
            self.arrive_late,
            self.retry_refused,
            self.remember,
            self.move_back,
            self.disconnect,
            self.pass_time,
        )
        moods = [1.0] * 2 + self.rng.choices((0.0, 0.2, 1.0, 2.0), k=6)
        weights = (40, 20, 3, 2, 3, 1, 1, 6)
        self.weights = [mood * weight for mood, weight in zip(moods, weights, strict=True)]
        self.crashes = self.rng.choice((0.0, 0.002, 0.02))
        self.sessions = [shell.outbox(self) for _ in range(RELAYS)]
        self.brokers = [Broker(self, session) for session in self.sessions]
        self.relays = [self._new_relay(number) for number in range(RELAYS)]
        self.busy: set[int] = set()

    def play(self, turns: int) -> None:
        """Chaos for so many turns, then quiet until all is sent. Raises Broken."""
        with mock.patch.multiple(
            self.shell.module,
            outbox=self.shell.outbox,
            faults=SimpleNamespace(reach=self.reach),
            PAGE_ROWS=PAGE_ROWS,
            LEAST_PAGE_ROWS=LEAST_PAGE_ROWS,
        ):
            for _ in range(turns):
                self.rng.choices(self.happenings, self.weights)[0]()
            self.chaos = False
            for record in self.late:
                self.arrive(record)
            self._settle("what is not refused", self._is_free)
            self.poison.clear()
            self.pg.refusals.clear()
            self._settle("what was refused", lambda _: True)
        self._check_log()

    def _settle(self, what: str, must_go: Callable[[WaitingRow], bool]) -> None:
        for _ in range(QUIET_TURNS):
            self.now += 1.0
            self.turn()
            if not any(must_go(row) for row in self.pg.rows.values()):
                return
        raise Broken(f"{self}: {what} is not sent: {sorted(self.pg.rows)}")

    def _is_free(self, row: WaitingRow) -> bool:
        """Whether nothing but the relay keeps a row from leaving: a refused one holds its key only."""
        stuck = [
            other
            for place, other in self.pg.rows.items()
            if UUID(other.event_id) in self.poison or place in self.pg.refusals
        ]
        return row not in stuck and not any(
            other.id < row.id and row.key is not None and place_of(other) == place_of(row) for other in stuck
        )

    def _check_log(self) -> None:
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

    def check_handed(self, session: Outbox, record: OutgoingRecord) -> None:
        """Under its lock a relay never sends what another one has sent and deleted."""
        row = self.rows[event_id(record)]
        is_locked = session.server is self.pg and row.queue in session.held
        if is_locked and (row.queue, row.id) not in self.pg.rows:
            raise Broken(f"{self}: {row.queue} {row.id} is sent again under the lock")

    def check_hints(self, pg: Postgres) -> None:
        """No hint passes a row that is left."""
        for queue, number in pg.rows:
            if number <= pg.hints.get(queue, 0):
                raise Broken(f"{self}: the saved hint of {queue} passes {number}")

    def turn(self) -> None:
        """One run of a relay that has nothing to do yet."""
        number = self.rng.choice([n for n in range(RELAYS) if n not in self.busy])
        relay, session = self.relays[number], self.sessions[number]
        self.busy.add(number)
        self.now += self.rng.choice((0.01, 0.2, 1.0))
        try:
            relay.run_once()
        except PostgresAway:
            # The same relay goes on, with a new connection; its producer still has what it was given.
            session.close()
        except TimedOut:
            pass
        except Crash:
            self.brokers[number].close()
            session.close()
            self.relays[number] = self._new_relay(number)
        else:
            self._check_own_hints(number)
        finally:
            self.busy.discard(number)

    def _check_own_hints(self, number: int) -> None:
        if self.sessions[number].server is not self.pg:
            return
        hints: dict[str, int] = self.relays[number]._sent_through
        for queue, left in self.pg.rows:
            if left <= hints.get(queue, 0):
                raise Broken(f"{self}: the hint of {queue} passes {left}")

    def meanwhile(self) -> None:
        """What may happen between two steps of a relay: anything but its own doing."""
        if self.chaos and self.depth < RELAYS - 1 and self.unlucky(0.1):
            self.depth += 1
            try:
                self.rng.choices(self.happenings, self.weights)[0]()
            finally:
                self.depth -= 1

    def commit(self) -> None:
        """A transaction with a few rows of one queue: so ids of a queue are committed in their order."""
        queue = self.rng.choice(QUEUES)
        for _ in range(self.rng.randrange(1, 7)):
            self.pg.last_id += self.rng.choice((1, 1, 3))
            event = UUID(int=len(self.rows) + 1)
            topic, key = self.rng.choice(TOPICS), self.rng.choice(KEYS)
            number = self.pg.last_id
            row = WaitingRow(queue, number, str(event), topic, key, "made", None, "{}", memoryview(b""))
            self.rows[event] = row
            self.pg.rows[queue, number] = row
            self.pg.committed.append(row)
            if self.rng.random() < self.refuses * 0.3:
                self.poison.add(event)

    def arrive(self, record: OutgoingRecord) -> None:
        self.log.append(event_id(record))

    def arrive_late(self) -> None:
        if self.late:
            self.arrive(self.late.pop(self.rng.randrange(len(self.late))))

    def retry_refused(self) -> None:
        """An operator mends one and lets the relay try again; or only the latter."""
        if self.pg.refusals:
            row = self.pg.refusals.pop(self.rng.choice(sorted(self.pg.refusals)))
            if self.rng.random() < 0.5:
                self.poison.discard(UUID(row.event_id))

    def remember(self) -> None:
        self.older.append(copied(self.pg))

    def move_back(self) -> None:
        """Postgres is another, older one from now on; every connection was to the one before."""
        if self.older:
            self.older = self.older[: self.rng.randrange(len(self.older)) + 1]
            self.pg = copied(self.older[-1])

    def disconnect(self) -> None:
        """A connection ends that nobody uses just now."""
        idle = [session for number, session in enumerate(self.sessions) if number not in self.busy]
        self.rng.choice(idle).close()

    def pass_time(self) -> None:
        self.now += self.rng.choice((0.5, HINTS, 3 * HINTS))

    def reach(self, name: str) -> None:
        """A fault point: the process may end here."""
        if self.unlucky(self.crashes):
            raise Crash(name)

    def unlucky(self, chance: float) -> bool:
        """Never in the quiet at the end."""
        return self.chaos and self.rng.random() < chance

    def __str__(self) -> str:
        return f"seed {self.seed} at {self.now:.3f} s"

    def _new_relay(self, number: int) -> Any:
        self.brokers[number] = Broker(self, self.sessions[number])
        make = partial(self.shell.module.Relay, self.sessions[number], self.brokers[number])
        return make(source="world", clock=lambda: self.now)


def copied(pg: Postgres) -> Postgres:
    """Rows themselves never change."""
    return Postgres(dict(pg.rows), dict(pg.refusals), dict(pg.hints), pg.last_id, list(pg.committed))


def place_of(row: WaitingRow) -> Place:
    """Within which order holds."""
    return row.queue, row.topic, row.key or ""


def event_id(record: OutgoingRecord) -> UUID:
    """The id of a record's event."""
    value = dict(record.headers)["ce_id"]
    assert isinstance(value, bytes)
    return UUID(value.decode())
