"""Workers that share queues on a real Postgres. They consist of a real lease thread and a simulated loop."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from sluice.db.connection import Session
from sluice.db.delivery.leases import LEASE_SETTINGS
from sluice.worker.activity import Activity
from sluice.worker.lease_thread import LeaseThread, View

DECLARED: Mapping[str, Iterable[str]] = {"thing": ()}


class Clock:
    """A simulated clock. Its time changes only when a test sets it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Member:
    """One worker. Its loop may pop the queues `consumed`, and does not release the queues `in_flight` yet."""

    lease_thread: LeaseThread
    clock: Clock
    consumed: set[str] = field(default_factory=set)
    in_flight: set[str] = field(default_factory=set)
    seen: View = field(default_factory=lambda: View(0, frozenset()))

    def look(self) -> None:
        """Runs the first half of a tick of the loop: reads which queues the lease thread wants."""
        self.seen = self.lease_thread.wanted

    def act(self) -> None:
        """Runs the second half of a tick: changes and reports the consumed queues. See `LeaseStep`."""
        self.consumed &= self.seen.queues | self.in_flight
        self.consumed |= self.seen.queues
        self.lease_thread.note_tick(View(self.seen.version, frozenset(self.consumed)))

    def tick(self) -> None:
        """Runs both halves of a tick."""
        self.look()
        self.act()

    def turn(self) -> None:
        """Runs the loop, the lease thread, and the loop again."""
        self.clock.now += 1
        self.tick()
        self.lease_thread.run_once()
        self.tick()

    @property
    def pid(self) -> int:
        """The backend process id of the worker's session in Postgres."""
        return int(self.lease_thread.session.connection.info.backend_pid)

    def leave(self) -> None:
        """Releases all queues, as at the end of a worker."""
        self.consumed.clear()
        self.lease_thread.stop()


class Workers:
    """Creates members and closes their sessions."""

    def __init__(self, database_url: str, lease_thread: Callable[..., LeaseThread] = LeaseThread) -> None:
        self._url = database_url
        self._lease_thread = lease_thread
        self.members: list[Member] = []

    def join(self, declared: Mapping[str, Iterable[str]] | None = None) -> Member:
        """Adds a member. Its first turn follows later. `declared` maps entity types to topics."""
        number, clock = len(self.members), Clock()
        lease_thread = self._lease_thread(
            Session(self._url, application_name=f"test leases {number}", settings=LEASE_SETTINGS),
            node=f"worker-{number}@test",
            activity=Activity(clock),
            wanted_changed=lambda: None,
            declared=DECLARED if declared is None else declared,
            rng=Random(number),
            clock=clock,
        )
        self.members.append(Member(lease_thread, clock))
        return self.members[-1]

    def turns(self, count: int = 6) -> None:
        """Runs `count` turns of every member."""
        for _ in range(count):
            for member in self.members:
                member.turn()

    def close(self) -> None:
        """Closes all sessions."""
        for member in self.members:
            member.lease_thread.session.close()
