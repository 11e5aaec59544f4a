"""A rebuild skips and reports an event whose handler repeatedly ends its process or times out."""

from typing import Any

import pytest

from sluice.admin.rebuild import generation_changes
from sluice.db.apply.handler_deaths import note_death
from sluice.db.projections.generation_deaths import deaths_queue, read_deaths
from sluice.kafka_io.bounded_record import bounded
from sluice.kafka_io.whole_record import RecordNotRead
from sluice.runtime.place import EventPlace
from tests.db.tasks import projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, thing_set
from tests.db.tasks.projecting import DECISION, PLACE, Bench

bench = projecting.bench

SUSPECT = EventPlace(TOPIC, TOPIC_ID, 0, 1)
LEFT = "SELECT queue FROM sluice.handler_deaths ORDER BY 1"


def died(bench: Bench, generation: int, times: int, *, timed_out: bool = False) -> str:
    queue = deaths_queue("totals", generation, PLACE)
    for _ in range(times):
        note_death(bench.looking, queue, SUSPECT, timed_out=timed_out, how="signal SIGSEGV")
    return queue


@pytest.mark.parametrize(
    ("deaths", "timed_out", "error_class"),
    [(1, False, None), (2, False, None), (3, False, "HandlerEndedProcess"), (1, True, "HandlerTimedOut")],
)
def test_a_rebuild_skips_and_reports_an_event_that_ends_its_process(
    bench: Bench, deaths: int, timed_out: bool, error_class: str | None
) -> None:
    bench.live(*(thing_set(n, f"k{n}") for n in range(4)))
    number = bench.begin()
    died(bench, number, deaths, timed_out=timed_out)
    assert bench.rebuild(number)
    count, found = read_deaths(bench.session, "totals", number, 9)
    assert [(one.topic, one.partition, one.offset, one.error_class) for one in found] == (
        [] if error_class is None else [(TOPIC, 0, 1, error_class)]
    )
    assert len(bench.rows(number)) == 4 - count
    assert bench.look(LEFT) == []


def test_deaths_in_another_generation_do_not_count_and_are_deleted_with_that_generation(bench: Bench) -> None:
    bench.live(thing_set(0, "a"), thing_set(1, "b"))
    first, second = bench.begin(), bench.begin()
    queues = [died(bench, number, 3) for number in (first, 22)]
    assert bench.rebuild(second)
    assert read_deaths(bench.session, "totals", second, 0)[0] == 0
    assert bench.look(LEFT) == [(queue,) for queue in sorted(queues)]
    bench.looking.command(f"UPDATE sluice.generations SET state = 'failed' WHERE generation = {first}")
    generation_changes.drop(bench.session, bench.generation(first), DECISION)
    assert bench.look(LEFT) == [(queues[1],)]


def test_a_record_that_kafka_does_not_return_at_first_does_not_fail_the_generation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, answers = thing_set(0, "a", 5), iter([True, True, False])
    bench.kafka[0] = whole
    bench.live(bounded(whole, 10))
    bench.redrive("a")
    number = bench.begin()

    def read_whole(self: Bench, *place: Any) -> Any:
        if next(answers):
            raise RecordNotRead("the broker is unreachable")
        return whole

    monkeypatch.setattr(Bench, "read_whole", read_whole)
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows(1) == {"a": (5, 1)}
