"""Postgres and Kafka as a simulated relay meets them: its session with the outbox, and its producer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

from sluice.db.records import WaitingRow
from sluice.kafka_io.record_types import Answer, Delivery, OutgoingRecord
from tests.simulation.relay_surroundings import (
    QUEUES,
    Broken,
    Postgres,
    Surroundings,
    copied,
    event_id,
    place_of,
)


class PostgresAway(Exception):
    """The connection is lost, or its server is no longer the right one."""


class TimedOut(Exception):
    """The statement was cancelled and its transaction undone; the connection is as good as before."""


class Outbox:
    """A session, and the functions of `sluice.db.sending.relay` over it."""

    def __init__(self, world: Surroundings) -> None:
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
        self,
        sent_through: Mapping[str, int],
        *,
        without_topics: Sequence[str],
        limit: int,
        newest_format: int,
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

    def read_lowest_newer(self, queues: Iterable[str], newest_format: int) -> dict[str, int]:
        """All relays of the simulation are of one version."""
        return {}

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

    def __init__(self, world: Surroundings, session: Outbox) -> None:
        self.world = world
        self.session = session
        self.in_flight: list[tuple[WaitingRow, OutgoingRecord]] = []
        self.answers: list[Answer[WaitingRow]] = []

    def send(self, row: WaitingRow, record: OutgoingRecord) -> None:
        self.world.check_handed(self.session, record)
        if self.world.unlucky(0.01):
            self.answers.append((row, Delivery.AWAY, "simulated: not taken"))
        else:
            self.in_flight.append((row, record))

    def poll(self, timeout_seconds: float) -> list[Answer[WaitingRow]]:
        self.answer_one(timeout_seconds)
        answers, self.answers = self.answers, []
        return answers

    def answer_one(self, timeout_seconds: float) -> None:
        world, rng = self.world, self.world.rng
        world.now += rng.choice(world.poll_seconds) if world.chaos else 0.001
        world.meanwhile()
        if not self.in_flight or world.unlucky(world.silence):
            world.now += timeout_seconds
            return
        alone = len(self.in_flight) == 1
        row, record = self.in_flight.pop(rng.randrange(len(self.in_flight)))
        event = event_id(record)
        if event in world.poison or (not alone and world.unlucky(0.05)):
            self.answers.append((row, Delivery.REFUSED, "simulated"))
        elif world.unlucky(world.losses):
            # The outcome is unknown: it arrived, did not arrive, or arrives later.
            rng.choice((world.arrive, world.late.append, lambda _: None))(record)
            self.answers.append((row, Delivery.AWAY, "simulated"))
        else:
            world.arrive(record)
            world.reach("acknowledgement on its way")
            self.answers.append((row, Delivery.ACKNOWLEDGED, ""))

    def close(self) -> None:
        for _, record in self.in_flight:
            self.world.rng.choice((self.world.late.append, lambda _: None))(record)
        self.in_flight.clear()
        self.answers.clear()
