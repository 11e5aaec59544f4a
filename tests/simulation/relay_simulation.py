"""A simulation in one thread: several relays share one outbox, and any service may fail at any time.

Postgres and Kafka are simulated; `Relay` and `OutboxPage` are real. Invariants of each step are checked at
once. Invariants of the result are checked after a quiet phase without failures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

from sluice.db.records import WaitingRow
from sluice.tasks.outbox import relay as relay_module
from tests.simulation.relay_services import Broker, Outbox, PostgresAway, TimedOut
from tests.simulation.relay_surroundings import QUEUES, Broken, Crash, Postgres, Surroundings, copied

TOPICS, KEYS = ("t", "u"), ("k", "l", None)
RELAYS = 3
QUIET_TURNS = 400
# The limits are small, so that pages often end early and records are often abandoned.
PAGE_ROWS, LEAST_PAGE_ROWS = 8, 3
HINTS = relay_module.HINT_SECONDS


@dataclass(frozen=True)
class Shell:
    """The parts that a mutant replaces: the module of the relay, and the outbox."""

    module: ModuleType = relay_module
    outbox: type[Outbox] = Outbox


class Simulation(Surroundings):
    """The relays, the failures and the other events of one run."""

    def __init__(self, seed: int, shell: Shell) -> None:
        super().__init__(seed)
        self.shell = shell
        self.depth = 0
        self.older: list[Postgres] = []
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
        self.sessions: list[Outbox] = [shell.outbox(self) for _ in range(RELAYS)]
        self.brokers = [Broker(self, session) for session in self.sessions]
        self.relays = [self._new_relay(number) for number in range(RELAYS)]
        self.busy: set[int] = set()

    def run(self, turns: int) -> None:
        """Runs `turns` random events. Then runs without failures until all rows are sent. Raises Broken."""
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
            self._settle("rows that are not refused", self.is_free)
            self.poison.clear()
            self.pg.refusals.clear()
            self._settle("rows that were refused", lambda _: True)
        self.check_log()

    def _settle(self, what: str, must_go: Callable[[WaitingRow], bool]) -> None:
        for _ in range(QUIET_TURNS):
            self.now += 1.0
            self.turn()
            if not any(must_go(row) for row in self.pg.rows.values()):
                return
        raise Broken(f"{self}: {what} are not sent: {sorted(self.pg.rows)}")

    def turn(self) -> None:
        """Runs an idle relay one time."""
        number = self.rng.choice([n for n in range(RELAYS) if n not in self.busy])
        relay, session = self.relays[number], self.sessions[number]
        self.busy.add(number)
        self.now += self.rng.choice((0.01, 0.2, 1.0))
        try:
            relay.run_once()
        except PostgresAway:
            # The same relay continues with a new connection. Its producer still has records in flight.
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
                raise Broken(f"{self}: the hint of {queue} is not below the remaining row {left}")

    def meanwhile(self) -> None:
        if self.chaos and self.depth < RELAYS - 1 and self.unlucky(0.1):
            self.depth += 1
            try:
                self.rng.choices(self.happenings, self.weights)[0]()
            finally:
                self.depth -= 1

    def commit(self) -> None:
        """Commits a transaction with a few rows of one queue, so a queue's ids are committed in order."""
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

    def arrive_late(self) -> None:
        if self.late:
            self.arrive(self.late.pop(self.rng.randrange(len(self.late))))

    def retry_refused(self) -> None:
        """Lets the relay retry a refused row. In half of the cases, the cause of the refusal is corrected."""
        if self.pg.refusals:
            row = self.pg.refusals.pop(self.rng.choice(sorted(self.pg.refusals)))
            if self.rng.random() < 0.5:
                self.poison.discard(UUID(row.event_id))

    def remember(self) -> None:
        self.older.append(copied(self.pg))

    def move_back(self) -> None:
        """Restores an older state of Postgres. Existing connections belong to the previous server."""
        if self.older:
            self.older = self.older[: self.rng.randrange(len(self.older)) + 1]
            self.pg = copied(self.older[-1])

    def disconnect(self) -> None:
        """Ends the connection of an idle relay."""
        idle = [session for number, session in enumerate(self.sessions) if number not in self.busy]
        self.rng.choice(idle).close()

    def pass_time(self) -> None:
        self.now += self.rng.choice((0.5, HINTS, 3 * HINTS))

    def _new_relay(self, number: int) -> Any:
        self.brokers[number] = Broker(self, self.sessions[number])
        make = partial(self.shell.module.Relay, self.sessions[number], self.brokers[number])
        return make(source="simulation", clock=lambda: self.now)
