"""For tests of events that wait for a lock: sessions that hold locks, and an applier with short timeouts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from sluice.db.connection import BATCH_PLANS, Session
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Effect, Event, Upsert, handles
from sluice.tasks.apply.apply import Applier
from sluice.tasks.apply.set_aside_rules import RetryLimits
from sluice.tasks.fold.registry import collect_modules
from tests.db.tasks.applying import QUEUE, Bench, create_tables, made, slice_of, thing_set, things
from tests.waiting import wait_until

LOCK_TIMEOUT = "50ms"
SOON = RetryLimits(first_pause_seconds=0.01, longest_pause_seconds=0.05, share=0.9)
KEYS = 200
HELD = 2
"""The offset of the event that cannot be applied. The key of this event is `k`."""


@handles("thing.named")
def name_thing(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields the row that the data names. Its events have no entity."""
    yield Upsert(things, event.data["thing_id"], {"amount": 1, "name": event.data["name"]})


def thing_named(offset: int, thing_id: str, name: str) -> Record:
    """Returns a record with a `thing.named` event and without an entity."""
    return made(offset, "thing.named", thing_id=thing_id, name=name)._replace(key=None)


class AsideBench(Bench):
    """A test bench whose applier retries after short pauses."""

    def __post_init__(self) -> None:
        super().__post_init__()
        module = ModuleType("naming")
        vars(module).update(name_thing=name_thing, topics=tuple(self.registry.topics.values()))
        self.registry.handlers.update(collect_modules([module]).handlers)
        self.restart()

    def restart(
        self, limits: RetryLimits = SOON, *, statement_timeout: str = "5s", lock_timeout: str = LOCK_TIMEOUT
    ) -> None:
        """Replaces the applier by a new one, as a restart of the worker does."""
        self.session.close()
        settings = {"statement_timeout": statement_timeout, "lock_timeout": lock_timeout}
        self.session = Session(
            self.database_url, application_name="test apply", plans=BATCH_PLANS, settings=settings
        )
        self.applier = Applier(self.session, self.registry, limits)

    def retry(self) -> dict[str, int]:
        """Applies a message without slices, so the applier only retries the events that are due.

        Returns the results of these retries.
        """
        applied = self.apply()
        return {} if applied is None else dict(applied.retries)

    def retries(self) -> list[dict[str, Any]]:
        """Returns the rows of `retries`."""
        return [row for (row,) in self.look("SELECT to_jsonb(r) FROM sluice.retries r ORDER BY letter_id")]

    def retry_until(self, condition: Callable[[], object]) -> None:
        """Retries until the condition is true."""
        wait_until(lambda: condition() or (self.retry() and None), timeout_seconds=20, what="retries")

    def retry_until_settled(self) -> None:
        """Retries until no event waits, neither for a retry nor behind another event."""
        self.retry_until(lambda: not self.look("SELECT 1 FROM sluice.dead_letters WHERE state = 'waiting'"))

    def retry_until_attempts(self, attempts: int) -> None:
        """Retries until every event in `retries` has at least `attempts` consecutive failed attempts."""
        self.retry_until(lambda: all(row["attempts"] >= attempts for row in self.retries()))

    def letters(self) -> list[tuple[Any, ...]]:
        """Returns offset, outcome and state of every letter."""
        return self.look('SELECT "offset", outcome, state FROM sluice.dead_letters ORDER BY id')

    def parked(self) -> list[str]:
        """Returns the keys of the parked entities."""
        return [key for (key,) in self.look("SELECT key FROM sluice.parked_entities ORDER BY key")]

    def sent(self, key: str) -> list[int]:
        """Returns the amounts of the events that a key emitted, in order."""
        query = "SELECT convert_from(payload, 'utf8')::jsonb->>'amount' FROM sluice.outbox_events"
        return [int(amount) for (amount,) in self.look(f"{query} WHERE key = '{key}' ORDER BY id")]


@pytest.fixture
def bench(database_url: str) -> Iterator[AsideBench]:
    create_tables(database_url)
    bench = AsideBench(database_url)
    yield bench
    bench.close()


@dataclass(frozen=True)
class Hold:
    """A lock of another session: the SQL that prepares and takes it, and the event that needs the lock."""

    before: str
    take: str
    event: Record


ROW = Hold(
    "INSERT INTO things (thing_id, amount) VALUES ('k', 0)",
    "SELECT FROM things WHERE thing_id = 'k' FOR UPDATE",
    thing_set(HELD, "k", amount=5),
)
UPDATED_ROW = Hold(ROW.before, "UPDATE things SET amount = 0 WHERE thing_id = 'k'", ROW.event)
TABLE = Hold(
    "INSERT INTO things (thing_id, amount) VALUES ('whole', 0)",
    "LOCK TABLE parts IN EXCLUSIVE MODE",
    made(HELD, "part.added", "k", thing_id="whole"),
)
UNIQUE_KEY = Hold(
    "",
    "INSERT INTO things (thing_id, amount, name) VALUES ('other', 0, 'taken')",
    thing_set(HELD, "k", amount=5, name="taken"),
)
PRIMARY_KEY = Hold(
    "", "INSERT INTO things (thing_id, amount) VALUES ('k', 0)", thing_set(HELD, "k", amount=5)
)
ADVISORY_LOCK = Hold(
    """
    CREATE FUNCTION wait_for_others() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.thing_id = 'k' THEN PERFORM pg_advisory_xact_lock(7); END IF; RETURN NEW; END $$;
    CREATE TRIGGER waits BEFORE INSERT OR UPDATE ON things FOR EACH ROW EXECUTE FUNCTION wait_for_others()
    """,
    "SELECT pg_advisory_xact_lock(7)",
    thing_set(HELD, "k", amount=5),
)
HOLDS = {
    "row lock": ROW,
    "updated row": UPDATED_ROW,
    "table lock": TABLE,
    "unique key": UNIQUE_KEY,
    "primary key": PRIMARY_KEY,
    "advisory lock": ADVISORY_LOCK,
}


@contextmanager
def held(bench: Bench, *holds: Hold) -> Iterator[int]:
    """Holds locks in another session until the block ends. Yields the process id of the session."""
    for hold in holds:
        if hold.before:
            bench.look(hold.before)
    # On a busy machine, the block may take longer than the time-out of an idle transaction.
    limits = {"idle_in_transaction_session_timeout": "10min"}
    holder = Session(bench.database_url, application_name="psql", settings=limits)
    try:
        holder.command("BEGIN")
        for hold in holds:
            holder.command(hold.take)
        yield holder.connection.info.backend_pid
        holder.roll_back()
    finally:
        holder.close()


def others(count: int = KEYS) -> list[Record]:
    """Returns events at the offsets below `count`, each with another key. Leaves out offset HELD."""
    return [thing_set(n, f"key-{n}", amount=n) for n in range(count) if n != HELD]


def apply_held(bench: AsideBench, hold: Hold, keys: int = KEYS) -> None:
    """Applies two batches. Call it while another session holds the lock of `hold`.

    The first batch has `keys` events, each with another key. One of them, of key `k`, needs the held
    lock. The second batch has three more events of `k`, and one event of another key.
    """
    events = sorted([*others(keys), hold.event], key=lambda record: record.offset)
    assert bench.apply(slice_of(events)) is not None
    later = [thing_set(keys + n, "k", amount=10 + n) for n in range(3)] + [thing_set(keys + 3, "free")]
    assert bench.apply(slice_of(later, prev=keys - 1)) is not None


def make_slow(bench: Bench, condition: str) -> None:
    """Slows down writes to the table `things`.

    A write that matches the condition then takes longer than the statement timeout.
    """
    bench.look(f"""
        CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN IF {condition} THEN PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON things FOR EACH ROW EXECUTE FUNCTION take_long()
    """)


def make_fast(bench: Bench) -> None:
    """Undoes `make_slow`."""
    bench.look("DROP TRIGGER slow ON things; DROP FUNCTION take_long")


def apply_next(bench: AsideBench, offset: int) -> None:
    """Applies an event of another key at `offset`."""
    assert bench.applier.apply(QUEUE, [slice_of([thing_set(offset, f"next-{offset}")], prev=offset - 1)])
