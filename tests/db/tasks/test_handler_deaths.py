"""An event whose handler ended a process is applied alone. After three such deaths it is a dead letter."""

import pytest

from sluice.db.apply.handler_deaths import forget_deaths, note_death
from sluice.runtime.place import EventPlace
from tests.db.tasks.applying import QUEUE, TOPIC, TOPIC_ID, Bench, slice_of, thing_set
from tests.db.tasks.applying import bench as bench

SUSPECT = EventPlace(TOPIC, TOPIC_ID, 0, 1)
LETTERS = 'SELECT "offset", error_class, state FROM sluice.dead_letters ORDER BY 1'
LEFT = "SELECT count(*) FROM sluice.handler_deaths"
# The rows of one transaction have the same xmin.
TRANSACTIONS = """
    SELECT array_agg("offset"::int ORDER BY "offset") FROM sluice.processed_events
    GROUP BY xmin::text ORDER BY 1
"""


def died(bench: Bench, times: int, *, place: EventPlace = SUSPECT, timed_out: bool = False) -> None:
    for number in range(1, times + 1):
        assert note_death(bench.looking, QUEUE, place, timed_out=timed_out, how="signal SIGSEGV") == number


CASES = [
    # Each case: the number of deaths, True for a timeout, the class of the letter, the offsets of each
    # transaction.
    (0, False, None, [[0, 1, 2, 3]]),
    (1, False, None, [[0], [1], [2, 3]]),
    (2, False, None, [[0], [1], [2, 3]]),
    (3, False, "HandlerEndedProcess", [[0, 1, 2, 3]]),
    (1, True, "HandlerTimedOut", [[0, 1, 2, 3]]),
]


@pytest.mark.parametrize(("deaths", "timed_out", "error_class", "transactions"), CASES)
def test_an_event_whose_handler_ended_processes_is_applied_alone_or_becomes_a_dead_letter(
    bench: Bench, deaths: int, timed_out: bool, error_class: str | None, transactions: list[list[int]]
) -> None:
    died(bench, deaths, timed_out=timed_out)
    applied = bench.apply(slice_of([thing_set(n, key=f"k{n}") for n in range(4)]))
    assert applied is not None
    assert applied.is_whole
    dead = {} if error_class is None else {"dead": 1}
    assert bench.outcomes() == {"applied": 4 - len(dead), **dead}
    assert bench.look(LETTERS) == ([] if error_class is None else [(1, error_class, "dead")])
    assert [offsets for (offsets,) in bench.look(TRANSACTIONS)] == transactions
    assert bench.look(LEFT) == [(0,)]


def test_later_events_of_the_entity_wait_behind_the_letter(bench: Bench) -> None:
    died(bench, 3)
    bench.apply(slice_of([thing_set(n, key="k") for n in range(4)]))
    assert bench.outcomes() == {"applied": 1, "dead": 1, "waiting": 2}


def test_deaths_of_another_queue_or_of_a_recreated_topic_do_not_count(bench: Bench) -> None:
    died(bench, 3, place=SUSPECT._replace(topic_id="another"))
    note_death(bench.looking, "thing.9", SUSPECT, timed_out=True, how="killed")
    bench.apply(slice_of([thing_set(n, key=f"k{n}") for n in range(4)]))
    assert bench.outcomes() == {"applied": 4}
    assert bench.look("SELECT queue FROM sluice.handler_deaths") == [("thing.9",)]


def test_deaths_of_events_that_are_already_applied_are_deleted(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(0), thing_set(1)]))
    died(bench, 2)
    bench.apply(slice_of([thing_set(2)], prev=1))
    assert bench.look(LEFT) == [(0,)]


def test_deaths_of_events_that_are_not_applied_yet_are_kept(bench: Bench) -> None:
    died(bench, 2, place=SUSPECT._replace(offset=9))
    bench.apply(slice_of([thing_set(0), thing_set(1)]))
    assert bench.look(LEFT) == [(1,)]
    forget_deaths(bench.looking, QUEUE, [SUSPECT._replace(offset=9), SUSPECT._replace(offset=8)])
    assert bench.look(LEFT) == [(0,)]
