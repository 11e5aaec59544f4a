"""Two sessions that change the row of a generation's lane or pace at the same time change it one by one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from sluice.db.connection import Session, Statement
from sluice.db.projections import generation_lanes, generation_pace
from sluice.db.projections.generation_lanes import GenerationStep, keep_places, lock_lanes
from sluice.db.projections.generation_pace import set_pace, take_pace
from sluice.stack.patience import patient
from tests.mutants import mutate_statement
from tests.waiting import wait_until

GENERATION, QUEUE, PLACE = ("totals", 1), "payment.0", ("payments", 0)
ROWS = """
    INSERT INTO sluice.projections VALUES ('totals', 1, 1);
    INSERT INTO sluice.generations (projection, generation, state, revision)
        VALUES ('totals', 1, 'building', 1)
"""
IS_BLOCKED = Statement("is_blocked", "SELECT cardinality(pg_blocking_pids($1)) > 0", ("int",))


@pytest.fixture
def session(make_session: Callable[[], Session]) -> Session:
    session = make_session()
    session.command(ROWS)
    return session


def run_behind(session: Session, change: Callable[[], Any], second: Callable[[Session], Any]) -> Any:
    """Returns the result of the second session, which begins before the change is committed."""
    with (
        closing(session.another("second")) as other,
        closing(session.another("look")) as look,
        ThreadPoolExecutor(1) as pool,
    ):
        with session.transaction():
            change()
            pid = other.connection.get_backend_pid()
            found = pool.submit(second, other)
            wait_until(
                lambda: found.done() or look.run(IS_BLOCKED, pid) == [(True,)],
                timeout_seconds=10,
                what="the second session waits or has ended",
            )
        return found.result(patient(10))


def offset_behind_a_step(session: Session) -> int:
    """Returns the offset that a session locks while another one advances the lane from 5 to 8."""
    keep_places(session, *GENERATION, QUEUE, {PLACE: 5})

    def advance() -> None:
        step = GenerationStep(*PLACE, 5, 8, {})
        generation_lanes.advance_generation(session, *GENERATION, QUEUE, [step])
        session.command("SELECT 1")  # sends the deferred statement

    held = run_behind(session, advance, lambda other: lock_lanes(other, *GENERATION, QUEUE, [PLACE]))
    return int(held[PLACE])


def test_a_chunk_that_waits_for_a_lane_reads_the_new_offset(session: Session) -> None:
    assert offset_behind_a_step(session) == 8


def test_a_mutant_that_does_not_lock_the_lane_is_caught(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate_statement(monkeypatch, generation_lanes, "LOCK_LANE", "FOR UPDATE", "")
    assert offset_behind_a_step(session) == 5


def pauses_of_two_tasks(session: Session, events: int) -> tuple[float, float]:
    """Returns the pauses of two tasks that apply events at the same time, after a first chunk."""
    set_pace(session, *GENERATION, paused=False, rate=1)
    take_pace(session, *GENERATION, events)
    pauses: list[float] = []

    def take() -> None:
        # As `take_pace` does in a transaction of its own.
        [(until,)] = session.run(generation_pace.LOCK_PACE, *GENERATION)
        [(pause,)] = session.run(generation_pace.TAKE_PACE, *GENERATION, until, events)
        pauses.append(pause)

    second = run_behind(session, take, lambda other: take_pace(other, *GENERATION, events))
    return pauses[0], second


def test_tasks_of_a_rebuild_share_its_rate(session: Session) -> None:
    hour = 3_600
    first, second = pauses_of_two_tasks(session, hour)
    assert second - first == pytest.approx(hour, abs=hour / 10)
    rows = Statement("rows", "SELECT count(*) FROM sluice.generation_paces")
    assert session.run(rows) == [(1,)]


def test_a_mutant_without_a_lock_on_the_pace_is_caught(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate_statement(monkeypatch, generation_pace, "LOCK_PACE", "FOR UPDATE", "")
    first, second = pauses_of_two_tasks(session, 3_600)
    assert second - first < 360
