"""The relay on a real Postgres sends and deletes events. Events that are not sent hold back later ones."""

from itertools import pairwise

import pytest
import structlog

from sluice.runtime.fault_points import FaultInjected, faults
from sluice.runtime.log_pace import LOG_SECONDS
from sluice.tasks.outbox.relay import FLUSH_SECONDS, MAX_AWAY_SECONDS, Relayed
from tests.db.tasks import relaying
from tests.db.tasks.relaying import ACKNOWLEDGED, AWAY, REFUSED, Answer, Bench, Broker

bench = relaying.bench


def test_waiting_events_are_sent_in_order_and_deleted(bench: Bench) -> None:
    bench.add((3, "a"), (1, "a"), (2, "b"), (4, "a"), (5, None))
    bench.add((6, "a"), queue="e.1", topic="u")
    assert bench.run() == Relayed(sent=6)
    assert bench.left() == []
    log = bench.broker.log
    assert [number for topic, key, number in log if (topic, key) == ("t", "a")] == [1, 3, 4]
    assert sorted(number for _, _, number in log) == [1, 2, 3, 4, 5, 6]
    assert bench.run() == Relayed()


def test_only_one_relay_at_a_time_sends_the_rows_of_a_queue(bench: Bench) -> None:
    other = Broker()
    another = bench.new_relay(other)
    bench.add((1, "a"), (2, "a"), (3, "b"))
    in_between: list[Relayed] = []

    def meanwhile() -> None:
        # While the first relay waits for the broker, the other relay sends an event of another queue.
        if not in_between:
            bench.add((4, "a"), queue="e.1")
            in_between.append(another.run_once())

    bench.broker.meanwhile = meanwhile
    assert bench.run() == Relayed(sent=3)
    assert in_between == [Relayed(sent=1)]
    assert (sorted(bench.broker.numbers()), other.numbers()) == ([1, 2, 3], [4])
    assert another.run_once() == bench.run() == Relayed()
    assert bench.left() == []


def test_an_event_that_is_not_acknowledged_stays_and_holds_its_key(bench: Bench) -> None:
    bench.add((1, "a"), (2, "a"), (3, "b"), (4, "a"))
    bench.broker.answer = lambda number, *_: AWAY if number == 2 else ACKNOWLEDGED
    assert bench.run() == Relayed(sent=2, left=2)
    assert bench.left() == [2, 4]
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    assert bench.run(MAX_AWAY_SECONDS) == Relayed(sent=2)
    assert bench.broker.numbers() == [1, 3, 2, 4]


@pytest.mark.parametrize("point", ["relay.claimed", "relay.handed", "relay.acknowledged"])
def test_a_relay_that_ends_before_its_commit_leaves_the_rows(bench: Bench, point: str) -> None:
    bench.add((1, "a"), (2, "a"))
    faults.arm(f"{point}:1:raise")
    with pytest.raises(FaultInjected):
        bench.run()
    assert bench.left() == [1, 2]
    first = bench.broker.numbers()
    assert first == ([1, 2] if point == "relay.acknowledged" else [])
    assert bench.run() == Relayed(sent=2)
    assert bench.broker.numbers() == [1, 2]


def test_records_without_an_answer_stay_and_their_producer_is_closed(bench: Bench) -> None:
    bench.add((1, "a"), (2, "a"), (3, "b"))
    bench.broker.answer = lambda number, *_: None if number == 1 else ACKNOWLEDGED
    assert bench.run() == Relayed(sent=1, left=2)
    assert FLUSH_SECONDS <= bench.broker.now < FLUSH_SECONDS + 1
    assert bench.broker.closed == 1
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    assert bench.run(MAX_AWAY_SECONDS) == Relayed(sent=2)
    assert bench.broker.numbers() == [3, 1, 2]


def test_a_topic_without_answers_is_reported_and_retried_after_growing_pauses(bench: Bench) -> None:
    bench.add((1, "a"))
    bench.broker.answer = lambda *_: None
    tried = 0
    with structlog.testing.capture_logs() as logs:
        for _ in range(100):
            before = bench.broker.closed
            bench.run(0.5)
            tried += bench.broker.closed - before
    minutes = int(bench.broker.now // LOG_SECONDS)
    assert [entry["topic"] for entry in logs if "held back" in entry["event"]] == ["t"] * (1 + minutes)
    assert minutes >= 1
    assert 3 <= tried <= 12


def test_a_refused_record_holds_only_its_key_in_its_queue(bench: Bench) -> None:
    bench.add((1, "a"), (2, "a"), (3, "b"), (4, None), (5, None), (6, "a"))
    # These events have the same key in another topic, and in another queue.
    bench.add((7, "a"), topic="u")
    bench.add((8, "a"), (9, "c"), queue="e.1")
    bench.broker.answer = lambda number, *_: REFUSED if number in (2, 4) else ACKNOWLEDGED
    # In one page, an event also waits for a refused event of the same topic and key in another queue. So
    # event 8 stays, too.
    assert bench.run() == Relayed(sent=5, refused=2, left=2)
    assert bench.left() == [2, 4, 6, 8]
    assert bench.look("SELECT queue, id, topic, key, error FROM sluice.outbox_refusals ORDER BY id") == [
        ("e.0", 2, "t", "a", "too large"),
        ("e.0", 4, "t", None, "too large"),
    ]
    bench.add((10, "a"), (11, None), (12, "b"))
    assert bench.run() == Relayed(sent=3)
    assert bench.left() == [2, 4, 6, 10]
    bench.broker.numbers()
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    bench.look("DELETE FROM sluice.outbox_refusals")
    assert bench.run() == Relayed(sent=4)
    assert [number for number in bench.broker.numbers() if number != 4] == [2, 6, 10]


def test_refused_records_are_retried_alone_and_good_records_are_sent(bench: Bench) -> None:
    bench.add((1, "a"), (2, "b"), (3, "c"), (4, "a"))
    tried_alone = []

    def answer(number: int, topic: str, alone: bool) -> Answer:
        if not alone:
            return REFUSED
        tried_alone.append(number)
        return REFUSED if number == 2 else ACKNOWLEDGED

    bench.broker.answer = answer
    assert bench.run() == Relayed(sent=3, refused=1)
    assert tried_alone == [1, 4, 2, 3]
    assert bench.look("SELECT id FROM sluice.outbox_refusals") == [(2,)]
    assert bench.left() == [2]


def test_an_unavailable_topic_is_retried_after_growing_pauses_and_blocks_no_other_topic(bench: Bench) -> None:
    bench.add(*((number, f"k{number}") for number in range(1, 6)), topic="gone")
    bench.broker.answer = lambda number, topic, _: AWAY if topic == "gone" else ACKNOWLEDGED
    tried = []
    for number in range(100, 200):
        bench.add((number, "a"))
        result = bench.run(0.5)
        assert result.sent == 1, "the event of the other topic is sent immediately"
        if result.left:
            tried.append(bench.broker.now)
    waits = [later - earlier for earlier, later in pairwise(tried)]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_AWAY_SECONDS
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    bench.broker.numbers()
    assert bench.run(MAX_AWAY_SECONDS) == Relayed(sent=5)
    assert sorted(bench.broker.numbers()) == [1, 2, 3, 4, 5]
