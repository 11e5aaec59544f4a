"""`sluice queue` on a real Postgres: a halted queue resumes with a number of accepted dead letters."""

from collections.abc import Iterator

import pytest

from sluice.db.admin.queue_admin import lock_listed_queue, read_queues, resume_queue
from tests.db.tasks.applying import QUEUE, Bench, create_tables, made, slice_of


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    bench = Bench(database_url)
    yield bench
    bench.close()


def test_a_queue_halted_by_dead_letters_resumes_when_they_are_accepted(bench: Bench) -> None:
    batch = slice_of([made(n, "thing.broken", f"k{n}") for n in range(30)])
    assert bench.apply(batch) is None
    (halted,) = read_queues(bench.looking)
    assert halted.queue == QUEUE
    assert "events failed" in (halted.halted_reason or "")
    with bench.looking.transaction():
        assert lock_listed_queue(bench.looking, QUEUE) == halted
        resume_queue(bench.looking, QUEUE, 30)
    assert bench.apply(batch) is not None
    assert bench.outcomes() == {"dead": 30}
    (running,) = read_queues(bench.looking)
    assert (running.halted_reason, running.accepted_deaths) == (None, 0)


def test_a_queue_halts_again_if_no_dead_letters_are_accepted(bench: Bench) -> None:
    batch = slice_of([made(n, "thing.broken", f"k{n}") for n in range(30)])
    assert bench.apply(batch) is None
    resume_queue(bench.looking, QUEUE, 0)
    assert bench.apply(batch) is None
    assert read_queues(bench.looking)[0].halted_reason is not None


def test_the_tried_events_of_a_queue_include_its_dead_letters(bench: Bench) -> None:
    records = [made(n, "thing.set", f"k{n}", amount=1) for n in range(20)]
    bench.apply(slice_of([*records, *(made(20 + n, "thing.broken", f"b{n}") for n in range(3))]))
    (queue,) = read_queues(bench.looking)
    assert (queue.tried, queue.deaths, queue.halted_reason) == (23, 3, None)


def test_an_unknown_queue_is_not_found(bench: Bench) -> None:
    assert lock_listed_queue(bench.looking, "unknown.0") is None
