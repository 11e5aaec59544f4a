"""Keys that have no row yet: few locks are enough for many keys, and two queues never lock the same key."""

import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String

from sluice.db.connection import Session
from sluice.db.tables import entity_table
from sluice.tasks.api import Effect, Entity, Event, Topic, Upsert, handles
from sluice.tasks.apply.row_store import KEY_LOCKS, AbsentKeyLocks
from sluice.tasks.fold.registry import Registry, collect_modules
from tests.db.tasks.applying import TOPIC, Bench, create_tables, made, slice_of
from tests.harness.raw_sql import make_engine
from tests.waiting import ADVISORY_LOCKS, WAITING_BACKENDS, wait_until

KEYS = 40_000
metadata = MetaData()
notes = entity_table(
    "notes", metadata, Column("note_id", String(64), primary_key=True), Column("text", String), deletable=True
)


@handles("notes.imported")
def import_notes(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields as many rows as the event names."""
    for number in range(event.data["rows"]):
        yield Upsert(notes, f"n{number}", {"text": "x" * 20})


def registry() -> Registry:
    module = ModuleType("notes")
    vars(module).update(
        import_notes=import_notes, notes=notes, topics=(Topic(TOPIC, entity=Entity("thing", 1)),)
    )
    return collect_modules([module])


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    engine = make_engine(database_url, connect_args={"options": "-c search_path=public"})
    metadata.create_all(engine)
    engine.dispose()
    opened = Bench(database_url, registry())
    yield opened
    opened.close()


def test_an_event_with_many_new_keys_is_applied_with_few_locks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    take = AbsentKeyLocks.take

    def take_and_count(self: AbsentKeyLocks, session: Session, table: str, keys: Any) -> None:
        take(self, session, table, keys)
        held.extend(n for (n,) in bench.look(ADVISORY_LOCKS))
        # Postgres has locks left, so another application can still connect.
        other = Session(bench.database_url, application_name="another application")
        other.command("SELECT 1")
        other.close()

    monkeypatch.setattr(AbsentKeyLocks, "take", take_and_count)
    applied = bench.apply(slice_of([made(0, "notes.imported", rows=KEYS)]))
    assert applied is not None
    assert applied.outcomes == {"applied": 1}
    assert bench.look("SELECT count(*) FROM notes") == [(KEYS,)]
    assert held
    assert max(held) <= 10
    # The next event updates the rows.
    assert bench.apply(slice_of([made(1, "notes.imported", rows=KEYS)], prev=0)) is not None
    assert bench.look("SELECT count(*) FROM notes WHERE version = 1") == [(KEYS,)]


FEW, MANY = ["a", "b"], [f"n{number}" for number in range(KEY_LOCKS + 1)]


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        (FEW, FEW, True),
        (FEW, ["c"], False),
        (FEW, MANY, True),
        (MANY, FEW, True),
        (MANY, MANY, True),
    ],
    ids=["few then the same", "few then others", "few then many", "many then few", "many then many"],
)
def test_two_transactions_never_lock_the_same_absent_key(
    bench: Bench, first: list[str], second: list[str], waits: bool
) -> None:
    holder, other = bench.session, Session(bench.database_url, application_name="other queue")
    finished = threading.Event()

    def take_second() -> None:
        with other.transaction():
            AbsentKeyLocks().take(other, "notes", second)
        finished.set()

    with holder.transaction():
        AbsentKeyLocks().take(holder, "notes", first)
        thread = threading.Thread(target=take_second)
        thread.start()
        waited = wait_until(
            lambda: "waits" if bench.look(WAITING_BACKENDS) else "takes" if finished.is_set() else "",
            timeout_seconds=10,
            what="the second transaction waits or has its locks",
        )
    thread.join()
    other.close()
    assert (waited == "waits") is waits


def test_many_keys_that_are_locked_one_by_one_are_replaced_by_one_lock(bench: Bench) -> None:
    locks = AbsentKeyLocks()
    with bench.session.transaction():
        for number in range(KEY_LOCKS + 50):
            locks.take(bench.session, "notes", [f"n{number}"])
        [(held,)] = bench.look(ADVISORY_LOCKS)
    assert held <= KEY_LOCKS + 2


def test_a_rollback_to_a_savepoint_releases_its_locks(bench: Bench) -> None:
    bench.look("ALTER TABLE notes ADD CONSTRAINT few CHECK (note_id <> 'n300')")
    bench.look("UPDATE sluice.queues SET accepted_deaths = 9")
    seen: list[dict[str, int]] = []
    take = AbsentKeyLocks.take

    def noting(self: AbsentKeyLocks, session: Session, table: str, keys: Any) -> None:
        seen.append(dict(self.held))
        take(self, session, table, keys)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AbsentKeyLocks, "take", noting)
        records = [made(0, "notes.imported", "k", rows=301), made(1, "notes.imported", "l", rows=2)]
        assert bench.apply(slice_of(records)) is not None
    assert bench.outcomes() == {"applied": 1, "dead": 1}
    # The batch fails, so the events are applied one by one. The second event does not see the locks of the
    # first.
    assert seen[-1] == {}
