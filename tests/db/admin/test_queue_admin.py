"""`sluice queue` on a real Postgres: a queue that halted for deaths goes on, and accepts what it was told."""

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


def test_a_queue_halted_for_deaths_goes_on_with_those_accepted(bench: Bench) -> None:
    batch = slice_of([made(n, "thing.broken", f"k{n}") for n in range(30)])
    assert bench.apply(batch) is None
    (halted,) = read_queues(bench.looking)
    assert halted.queue == QUEUE
    assert "events died" in (halted.halted_reason or "")
    with bench.looking.transaction():
        assert lock_listed_queue(bench.looking, QUEUE) == halted
        resume_queue(bench.looking, QUEUE, 30)
    assert bench.apply(batch) is not None
    assert bench.outcomes() == {"dead": 30}
    (running,) = read_queues(bench.looking)
    assert (running.halted_reason, running.accepted_deaths) == (None, 0)


def test_without_accepting_them_it_halts_again(bench: Bench) -> None:
    batch = slice_of([made(n, "thing.broken", f"k{n}") for n in range(30)])
    assert bench.apply(batch) is None
    resume_queue(bench.looking, QUEUE, 0)
    assert bench.apply(batch) is None
    assert read_queues(bench.looking)[0].halted_reason is not None


def test_deaths_are_counted_among_those_tried(bench: Bench) -> None:
    records = [made(n, "thing.set", f"k{n}", amount=1) for n in range(20)]
    bench.apply(slice_of([*records, *(made(20 + n, "thing.broken", f"b{n}") for n in range(3))]))
    (queue,) = read_queues(bench.looking)
    assert (queue.tried, queue.deaths, queue.halted_reason) == (23, 3, None)


def test_there_is_no_other_queue(bench: Bench) -> None:
    assert lock_listed_queue(bench.looking, "nobody.0") is None
