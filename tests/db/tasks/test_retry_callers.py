"""A rebuild, a redrive and the storage of an answer retry some errors and raise other errors immediately."""

from collections.abc import Sequence
from typing import Any

import psycopg2
import pytest

from sluice.db.apply import guard
from sluice.db.connection import Session
from sluice.db.errors import RowsChanged
from sluice.runtime.fault_points import faults
from sluice.tasks.apply.generation_feed import apply_to_generation
from sluice.tasks.effects.executor import STORE_PATIENCE_SECONDS, STORE_PAUSE_SECONDS, pause_after_store
from sluice.tasks.rebuild.rebuild_lane import FEWEST_RECORDS
from sluice.tasks.redrive import Redriver
from tests.db.tasks import projecting
from tests.db.tasks.applying import made, nothing_in_kafka, thing_set
from tests.db.tasks.projecting import Bench, registry
from tests.unit.db.test_errors import Answer

bench = projecting.bench
opened = projecting.opened


def test_a_rebuild_does_not_continue_over_another_connection(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = opened(bench.with_code(registry(2, 10)))
    bench.live(thing_set(0, "a", 1))
    number = fixed.begin()
    reached: list[str] = []

    def lose_connection(point: str) -> None:
        reached.append(point)
        if point == "rebuild.before_commit":
            bench.look(f"SELECT pg_terminate_backend({fixed.session.connection.info.backend_pid})")

    monkeypatch.setattr(faults, "reach", lose_connection)
    # Postgres released the advisory lock against other turns when the connection ended, so the turn must end.
    with pytest.raises(psycopg2.Error):
        fixed.rebuild(number)
    assert reached == ["rebuild.before_commit"]
    assert bench.states()[number] == "building"


def test_a_rebuild_whose_statement_is_cancelled_twice_takes_smaller_chunks(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = opened(bench.with_code(registry(2, 10)))
    bench.live(*(thing_set(n, f"k{n}", 1) for n in range(9)))
    number = fixed.begin()
    taken: list[int] = []

    def cancelled_twice(session: Session, synced: Any, events: Sequence[Any], *more: Any) -> Any:
        taken.append(len(events))
        if len(taken) in (3, 4):
            raise Answer("57014")
        return apply_to_generation(session, synced, events, *more)

    monkeypatch.setattr("sluice.tasks.rebuild.chunk_feed.apply_to_generation", cancelled_twice)
    # On a slow machine, chunks would stay small because of their time limit. The test removes this limit.
    monkeypatch.setattr("sluice.tasks.rebuild.rebuild_lane.CHUNK_SECONDS", 1e9)
    assert fixed.rebuild(number)
    assert taken[:5] == [FEWEST_RECORDS + more for more in (0, 1, 2, 2, 0)]
    assert len(bench.rows(number)) == 9


def test_a_redrive_reads_the_routing_again_if_it_changed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.live(made(0, "thing.broken", amount=1))
    bench.registry.handlers["thing.broken"] = bench.registry.handlers["thing.set"]
    plain, locked = guard.lock_queue, []

    def rerouted_before_the_lock(session: Session, queue: str) -> bool:
        locked.append(queue)
        if len(locked) == 1:
            bench.look("UPDATE sluice.entities SET epoch = epoch + 1 RETURNING epoch")
            bench.looking.connection.commit()
        return plain(session, queue)

    monkeypatch.setattr(guard, "lock_queue", rerouted_before_the_lock)
    assert Redriver(bench.session, bench.registry, nothing_in_kafka).redrive_once("thing", "k").unparked
    assert locked == ["thing.0", "thing.0"]


LOST = psycopg2.OperationalError("server closed the connection")


@pytest.mark.parametrize(
    ("error", "elapsed_seconds", "pause_seconds"),
    [
        (LOST, 0, STORE_PAUSE_SECONDS),
        (LOST, STORE_PATIENCE_SECONDS, STORE_PAUSE_SECONDS),
        (LOST, STORE_PATIENCE_SECONDS + 1, None),
        (Answer("40P01"), 0, STORE_PAUSE_SECONDS),
        (Answer("57014"), 0, STORE_PAUSE_SECONDS),
        (Answer("23505"), 0, None),
        (Answer("42P01"), 0, None),
        (RowsChanged("another writer"), 0, STORE_PAUSE_SECONDS),
    ],
    ids=repr,
)
def test_the_storage_of_an_answer_is_retried_only_after_transient_errors(
    error: Exception, elapsed_seconds: float, pause_seconds: float | None
) -> None:
    assert pause_after_store(error, elapsed_seconds, 0.5) == pause_seconds
