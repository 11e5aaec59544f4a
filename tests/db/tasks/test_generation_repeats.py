"""A rebuild finds the events that the live generation applied, even if they now have other offsets."""

from collections.abc import Sequence
from typing import Any

import pytest

from sluice.kafka_io.record_types import Record
from sluice.tasks.redrive import Redriver
from tests.db.tasks import projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, nothing_in_kafka, slice_of, thing_set
from tests.db.tasks.projecting import Bench, poison, registry

bench = projecting.bench
opened = projecting.opened

NEW_ID = "id-of-new-things"
EVENTS = [thing_set(n, f"k{n % 3}", n, event_id=f"event-{n}", version=n) for n in range(12)]


def again(record: Record, offset: int) -> Record:
    """Returns the same event at another offset."""
    return record._replace(offset=offset)


def sent(records: Sequence[Record], first: int = 0, step: int = 1) -> list[Record]:
    """Returns the same events at the offsets `first`, `first + step`, and so on."""
    return [again(record, first + step * n) for n, record in enumerate(records)]


NEW = thing_set(0, "new", 5, event_id="new", version=0)
LOGS = {
    # The topic id and the records of the accepted log.
    "the same log": (TOPIC_ID, EVENTS),
    "end lost and sent again": (TOPIC_ID, sent([*EVENTS[:6], EVENTS[10], *EVENTS[6:10], EVENTS[11]])),
    "topic recreated, all sent again": (NEW_ID, EVENTS),
    "topic moved, other offsets": (NEW_ID, sent(EVENTS, 100, 3)),
    "topic moved, repeated events": (NEW_ID, sent([*EVENTS[:6], *EVENTS[3:], *EVENTS[:2]])),
    "topic moved, new events in between": (NEW_ID, sent([EVENTS[0], NEW, *EVENTS[1:], EVENTS[4], NEW])),
}


@pytest.mark.parametrize("log", LOGS)
def test_another_log_gives_the_same_rows(bench: Bench, log: str) -> None:
    """Generations begin before, during and after the time in which workers apply the accepted log."""
    bench.live(*EVENTS)
    topic_id, records = LOGS[log]
    bench.accept(records, topic_id)
    begun = []
    for number, record in enumerate(records):
        if number in (0, 5):
            begun.append(bench.begin())
        bench.catch_up(through=record.offset)
        for generation in begun:
            assert bench.rebuild(generation)
    begun.append(bench.begin())
    assert bench.rebuild(begun[-1])
    for generation in begun:
        assert bench.rows(generation) == bench.rows(1), generation


@pytest.mark.parametrize("kept", [(1, 2, 6), (4, 5, 6), (2, 4, 6), (5, 6), (6,)])
def test_records_kept_by_compaction_are_folded_exactly_once(bench: Bench, kept: tuple[int, ...]) -> None:
    first = [thing_set(n, f"k{n}", n + 1, event_id=f"event-{n}", version=1) for n in range(3)]
    whole = [*first, *sent(first, 3), again(first[0], 6)]
    bench.live(*whole)
    bench.log[:] = [whole[n] for n in kept]
    number = bench.begin()
    assert bench.rebuild(number)
    named = {f"k{n % 3}" for n in kept}
    assert bench.rows(number) == {key: row for key, row in bench.rows(1).items() if key in named}
    # The generation is in sync now. Repeats of events that it contains and of events that compaction removed
    # follow.
    bench.live(*sent(first, 7))
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows(1)


def test_only_the_applied_record_of_a_repeated_event_is_folded(
    bench: Bench,
) -> None:
    event = thing_set(0, "k", 1, event_id="event", version=2)
    bench.log.append(event)
    bench.looking.command("INSERT INTO sluice.partition_watermarks VALUES ('things', 0, 1, 1)")
    bench.live_from_here(thing_set(1, "k", 2, version=1), again(event, 2))
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.look("SELECT folded, passed_duplicate FROM sluice.generation_lanes") == [(2, 1)]
    assert bench.look("SELECT found FROM sluice.generation_spans ORDER BY through_offset")[-1] == ([1, 2],)
    assert bench.look("SELECT FROM sluice.generation_identities") == []


@pytest.mark.parametrize(
    ("topic_id", "first", "dropped"),
    [(TOPIC_ID, 0, False), (TOPIC_ID, 0, True), (TOPIC_ID, 7, False), (NEW_ID, 0, False), (NEW_ID, 7, True)],
)
def test_a_letter_is_in_the_generation_as_soon_as_it_is_applied(
    bench: Bench, opened: Any, topic_id: str, first: int, dropped: bool
) -> None:
    """`first` is the offset of the letter in the log before the accept. That log may have been longer."""
    mended = opened(bench.with_code(registry(1, mended=True)))
    letter, behind = again(poison(0, "k", 7), first), again(thing_set(1, "k", 8), first + 1)
    bench.live(letter, behind)
    bench.accept([again(behind, 0), again(letter, 1), again(letter, 2)], topic_id)
    bench.catch_up(through=1)
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == {}
    if dropped:
        [(head,)] = bench.look("SELECT id FROM sluice.dead_letters WHERE outcome = 'dead'")
        assert Redriver(bench.session, bench.registry, nothing_in_kafka).drop("thing", "k", head)
    mended.redrive()
    bench.catch_up()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows(1) == {"k": (8, 1 if dropped else 2)}


def test_a_generation_from_a_checkpoint_has_the_events_of_the_old_topic(bench: Bench) -> None:
    bench.live(*EVENTS)
    bench.accept(EVENTS, NEW_ID)
    bench.catch_up(through=3)
    checkpoint = bench.checkpoint("middle")
    bench.catch_up()
    number = bench.begin(checkpoint=checkpoint)
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows(1)


def test_repeated_events_do_not_make_a_retired_generation_lag(bench: Bench) -> None:
    bench.live(*EVENTS)
    bench.accept(EVENTS, NEW_ID)
    bench.catch_up()
    number = bench.begin()
    assert bench.rebuild(number)
    bench.swap(number)
    bench.log += sent(EVENTS, 12)
    bench.catch_up()
    assert bench.rows(1) == bench.rows(number)
    [(applied,)] = bench.look("SELECT applied_offset FROM sluice.generation_lanes WHERE generation = 1")
    assert applied == 23


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("lost", [False, True])
def test_repeated_events_in_another_partition_are_folded_once(
    bench: Bench, order: tuple[int, int], lost: bool
) -> None:
    """The events are repeated in another partition, as after an increase of the number of partitions.

    With `lost`, the log of the first partition has lost them.
    """
    marker = thing_set(12, "k0", 1, event_id="marker", version=12)
    logs = {1: [*EVENTS, marker], 0: sent(EVENTS)}
    bench.apply(slice_of(logs[1])._replace(partition=1))
    bench.apply(slice_of(logs[0]))
    if lost:
        logs[1] = [marker]
    number = bench.begin()
    for partition in order:
        bench.log[:] = logs[partition]
        bench.rebuild(number, place=(TOPIC, partition))
    assert bench.generation(number).state == "ready"
    assert bench.rows(number) == bench.rows(1)


@pytest.mark.parametrize("dropped", [False, True])
def test_a_letter_of_the_live_generation_keeps_its_state_at_another_offset(
    bench: Bench, opened: Any, dropped: bool
) -> None:
    code = opened(bench.with_code(registry(1, 1_000)))
    # The code stores 1,000 times this amount, which violates the check of the table.
    refused = thing_set(1, "b", 5_000)
    code.live(thing_set(0, "a", 5), refused)
    if dropped:
        bench.looking.command("UPDATE sluice.projection_letters SET state = 'dropped'")
    code.accept(sent([refused, thing_set(0, "a", 5)]), NEW_ID)
    code.catch_up()
    number = code.begin()
    assert code.rebuild(number)
    assert bench.rows(number) == bench.rows(1) == {"a": (5_000, 1)}
    states = bench.look(f"SELECT state FROM sluice.projection_letters WHERE generation = {number}")
    assert states == [("dropped" if dropped else "dead",)]
