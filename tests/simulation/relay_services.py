"""The simulated services of a relay: a session with the outbox in Postgres, and a Kafka producer."""

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
    """Raised when the connection is lost, or when the server of the connection was replaced."""


class TimedOut(Exception):
    """Raised when a statement was cancelled and its transaction rolled back. The connection still works."""


class Outbox:
    """A session with the functions of `sluice.db.sending.relay`."""

    def __init__(self, simulation: Surroundings) -> None:
        self.simulation = simulation
        self.server: Postgres | None = None
        self._connection: object = None
        self._writes: list[Callable[[Postgres], None]] = []
        self.held: set[str] = set()

    @property
    def connection(self) -> object:
        if self._connection is None:
            self._connection, self.server = object(), self.simulation.pg
        return self._connection

    def close(self) -> None:
        """Ends the connection. The locks and the uncommitted writes of the session are lost."""
        self._connection = self.server = None
        self.roll_back()

    def roll_back(self) -> None:
        self.held.clear()
        self._writes.clear()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            yield
            self.simulation.reach("before commit")
            pg = self._reach_postgres()
            for write in self._writes:
                write(pg)
            self.simulation.check_hints(pg)
            if self.simulation.unlucky(0.02):
                self.close()
                raise PostgresAway("simulated: the commit succeeded, but was not reported")
        finally:
            self.roll_back()

    def read_sent_through(self) -> dict[str, int]:
        pg = self._reach_postgres()
        return {queue: pg.hints.get(queue, 0) for queue in QUEUES}

    def lock_waiting(self, sent_through: Mapping[str, int]) -> dict[str, int | None]:
        pg = self._reach_postgres()
        waiting = {q for q, number in pg.rows if number > sent_through.get(q, number)}
        # The statement takes its snapshot before it takes its locks.
        self.snapshot = copied(pg)
        self.simulation.meanwhile()
        self._reach_postgres()
        taken = {queue for other in self.simulation.sessions for queue in other.held if other.server is pg}
        self.held |= waiting - taken
        self.simulation.meanwhile()
        # A separate statement reads the refusals.
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
        self.simulation.meanwhile()
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
        """Returns nothing, because all relays of the simulation have the same version."""
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
            if UUID(row.event_id) not in self.simulation.poison and self.server is self.simulation.pg:
                raise Broken(
                    f"{self.simulation}: {row.queue} {row.id} is refused, but Kafka accepts it alone"
                )
            self._writes.append(lambda pg, row=row: pg.refusals.setdefault((row.queue, row.id), row))  # type: ignore[misc]

    def save_sent_through(self, sent_through: Mapping[str, int]) -> None:
        for queue, hint in sent_through.items():
            self._writes.append(
                lambda pg, q=queue, h=hint: pg.hints.update({q: max(h, pg.hints.get(q, 0))})  # type: ignore[misc]
            )

    def _reach_postgres(self) -> Postgres:
        assert self.connection is not None
        if self.server is not self.simulation.pg or self.simulation.unlucky(0.01):
            self.close()
            raise PostgresAway("simulated")
        if self.simulation.unlucky(0.01):
            raise TimedOut("simulated")
        return self.simulation.pg


class Broker:
    """The producer of one relay and its broker. Records of different keys may arrive in any order."""

    def __init__(self, simulation: Surroundings, session: Outbox) -> None:
        self.simulation = simulation
        self.session = session
        self.in_flight: list[tuple[WaitingRow, OutgoingRecord]] = []
        self.answers: list[Answer[WaitingRow]] = []

    def send(self, row: WaitingRow, record: OutgoingRecord) -> None:
        self.simulation.check_handed(self.session, record)
        if self.simulation.unlucky(0.01):
            self.answers.append((row, Delivery.AWAY, "simulated: not accepted"))
        else:
            self.in_flight.append((row, record))

    def poll(self, timeout_seconds: float) -> list[Answer[WaitingRow]]:
        self.answer_one(timeout_seconds)
        answers, self.answers = self.answers, []
        return answers

    def answer_one(self, timeout_seconds: float) -> None:
        simulation, rng = self.simulation, self.simulation.rng
        simulation.now += rng.choice(simulation.poll_seconds) if simulation.chaos else 0.001
        simulation.meanwhile()
        if not self.in_flight or simulation.unlucky(simulation.silence):
            simulation.now += timeout_seconds
            return
        alone = len(self.in_flight) == 1
        row, record = self.in_flight.pop(rng.randrange(len(self.in_flight)))
        event = event_id(record)
        if event in simulation.poison or (not alone and simulation.unlucky(0.05)):
            self.answers.append((row, Delivery.REFUSED, "simulated"))
        elif simulation.unlucky(simulation.losses):
            # The outcome is unknown: the record arrived, was lost, or arrives later.
            rng.choice((simulation.arrive, simulation.late.append, lambda _: None))(record)
            self.answers.append((row, Delivery.AWAY, "simulated"))
        else:
            simulation.arrive(record)
            simulation.reach("before acknowledgement")
            self.answers.append((row, Delivery.ACKNOWLEDGED, ""))

    def close(self) -> None:
        for _, record in self.in_flight:
            self.simulation.rng.choice((self.simulation.late.append, lambda _: None))(record)
        self.in_flight.clear()
        self.answers.clear()
