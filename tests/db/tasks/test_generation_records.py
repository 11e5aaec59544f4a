"""A rebuild applies exactly the records that the live generation applied, before or during the rebuild."""

from typing import Any

import pytest

from sluice.admin.accept import accept_topic
from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild import generation_changes
from sluice.admin.reshard import Resharded, reshard_entity
from sluice.db.admin.rerouting import TopicRouting
from sluice.kafka_io import partition_reader
from sluice.kafka_io.bounded_record import bounded
from sluice.kafka_io.log_range import LogRange
from sluice.tasks.apply.generation_writer import NotThisRevision
from sluice.tasks.rebuild import rebuild
from sluice.tasks.redrive import Redriver
from tests.db.tasks import projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, made, nothing_in_kafka, thing_set
from tests.db.tasks.projecting import DECISION, Bench, poison, registry

bench = projecting.bench
opened = projecting.opened


def test_records_that_were_not_applied_are_skipped_and_counted(bench: Bench) -> None:
    bench.live(
        thing_set(0, "a", 5),
        thing_set(1, "a", 5, event_id="e0", version=0),  # the same event at another offset
        thing_set(2, "a", 6, event_id="e0"),  # another event with the same id
        poison(3, "b"),
        thing_set(4, "b", 7),  # waits behind offset 3
        made(5, "thing.broken", "c", amount=1),
        thing_set(6, "d", 8),
    )
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows(1) == {"a": (5, 1), "d": (8, 1)}
    passed = bench.look(
        "SELECT folded, passed_duplicate, passed_conflict, passed_dead, passed_waiting, passed_unknown"
        " FROM sluice.generation_lanes"
    )
    assert passed == [(2, 1, 1, 2, 1, 0)]


@pytest.mark.parametrize("redriven", ["never", "before the rebuild", "in lockstep"])
def test_a_record_too_large_for_a_message_is_folded_if_it_was_applied(bench: Bench, redriven: str) -> None:
    whole = thing_set(1, "b", 6)
    bench.kafka[1] = whole
    bench.live(thing_set(0, "a", 5), bounded(whole, 10), thing_set(2, "b", 7), thing_set(3, "c", 8))
    if redriven == "before the rebuild":
        bench.redrive("b")
    number = bench.begin()
    assert bench.rebuild(number)
    if redriven == "in lockstep":
        bench.redrive("b")
    expected = {"a": (5, 1), "c": (8, 1)} | ({} if redriven == "never" else {"b": (7, 2)})
    assert bench.rows(number) == bench.rows(1) == expected


@pytest.mark.parametrize("then", [10, 10_000])
def test_a_changed_size_limit_does_not_change_which_records_are_folded(bench: Bench, then: int) -> None:
    whole, now = thing_set(0, "b", 6), 10_010 - then
    bench.kafka[0] = whole
    bench.live(bounded(whole, then))
    bench.log[:] = [bounded(whole, now)]
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows(1) == ({"b": (6, 1)} if then > now else {})


def test_records_from_before_the_first_applied_record_are_not_folded(bench: Bench) -> None:
    bench.log.append(thing_set(0, "old", 1))
    # The bridge began at offset 1, so the first record was never applied.
    bench.looking.command("INSERT INTO sluice.partition_watermarks VALUES ('things', 0, 1, 1)")
    bench.live_from_here(thing_set(1, "a", 5))
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows() == {"a": (5, 1)}


@pytest.mark.parametrize(
    ("died", "redriven"),
    [
        ("before the rebuild", "before the rebuild"),
        ("before the rebuild", "in lockstep"),
        ("before the rebuild", "after the swap"),
        ("in lockstep", "in lockstep"),
        ("in lockstep", "after the swap"),
    ],
)
def test_a_redriven_event_is_in_every_generation_exactly_once(
    bench: Bench, opened: Any, died: str, redriven: str
) -> None:
    mended = opened(bench.with_code(registry(1, mended=True)))
    bench.live(thing_set(0, "k", 1))
    if died == "before the rebuild":
        bench.live(poison(1, "k", 2), thing_set(2, "k", 3))
    number = bench.begin()
    if redriven == "before the rebuild":
        mended.redrive()
    assert bench.rebuild(number)
    if died == "in lockstep":
        bench.live(poison(1, "k", 2), thing_set(2, "k", 3))
    if redriven == "in lockstep":
        mended.redrive()
    bench.swap(number)
    if redriven == "after the swap":
        mended.redrive()
    bench.live(thing_set(3, "k", 4))
    assert bench.rows(1) == bench.rows(number) == {"k": (4, 4)}
    assert (
        bench.look(
            "SELECT sum(passed_dead), sum(passed_waiting) FROM sluice.generation_lanes WHERE generation = 2"
        )
        == [(0, 0)]
        or redriven == "after the swap"
    )


def test_a_dropped_event_is_in_no_generation(bench: Bench, opened: Any) -> None:
    bench.live(thing_set(0, "k", 1), poison(1, "k", 2), thing_set(2, "k", 3))
    number = bench.begin()
    assert bench.rebuild(number)
    ((letter,),) = bench.look("SELECT id FROM sluice.dead_letters WHERE outcome = 'dead'")
    assert Redriver(bench.session, bench.registry, nothing_in_kafka).drop("thing", "k", letter)
    bench.redrive()
    third = bench.begin()
    assert bench.rebuild(third)
    assert bench.rows(1) == bench.rows(number) == bench.rows(third) == {"k": (3, 2)}


def test_a_redrive_for_a_generation_of_another_revision_is_refused(bench: Bench, opened: Any) -> None:
    fixed = opened(bench.with_code(registry(2, 10, mended=True)))
    bench.live(poison(0, "k", 2))
    number = fixed.begin()
    assert fixed.rebuild(number)
    old = opened(bench.with_code(registry(1, mended=True)))
    with pytest.raises(NotThisRevision, match="made by revision 2, this code has revision 1"):
        old.redrive()
    fixed.redrive()
    assert (bench.rows(1), bench.rows(number)) == ({"k": (20, 1)}, {"k": (20, 1)})


def test_records_from_before_a_re_routing_are_read_in_the_new_lanes(bench: Bench) -> None:
    bench.live(*(thing_set(n, f"key-{n}", n) for n in range(20)))
    bench.looking.command("INSERT INTO sluice.partition_watermarks VALUES ('things', 0, 1, 20)")
    assert isinstance(reshard_entity(bench.session, "thing", 3, DECISION, force=True), Resharded)
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows() == {f"key-{n}": (n, 1) for n in range(20)}


def test_a_re_routing_is_refused_while_a_generation_is_kept_in_sync(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    number = bench.begin()
    with pytest.raises(OperationRefused, match="generation 2 of totals is kept in sync with live"):
        reshard_entity(bench.session, "thing", 3, DECISION, force=True)
    generation_changes.drop(bench.session, bench.generation(number), DECISION)
    assert isinstance(reshard_entity(bench.session, "thing", 3, DECISION, force=True), Resharded)


def test_an_accepted_topic_fails_generations_that_were_kept_in_sync(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    bench.looking.command("INSERT INTO sluice.partition_watermarks VALUES ('things', 0, 1, 1)")
    number = bench.begin()
    before, wanted = TopicRouting(TOPIC_ID, "thing"), TopicRouting("another id", "thing")
    accept_topic(bench.session, TOPIC, before, wanted, {0: LogRange(0, 0)}, DECISION)
    assert bench.states() == {1: "live", number: "failed"}
    assert "topic things was accepted" in bench.generation(number).failed_reason


def test_a_lane_that_falls_behind_during_a_turn_is_read_from_its_own_offset(
    bench: Bench, opened: Any
) -> None:
    bench.add_queues(2)
    lanes = bench.queues()
    slow, fast = (next(k for k in "abcdefgh" if bench.queue_of(thing_set(0, k)) == lane) for lane in lanes)
    fixed = opened(bench.with_code(registry(2, 10)))
    bench.live(thing_set(0, slow, 1), thing_set(1, fast, 1))
    bench.log += [thing_set(2, slow, 2), thing_set(3, fast, 2)]
    bench.catch_up(lanes[1:])
    number = fixed.begin()
    assert fixed.rebuild(number), "the live generation has not applied offset 2"
    # `bench` has the code of another revision and does not write the generation. So the fast lane lags from
    # offset 4 on.
    bench.log.append(thing_set(4, fast, 3))
    bench.catch_up(lanes[1:])
    assert fixed.rebuild(number, meanwhile=lambda: bench.catch_up(lanes[:1]) and None)
    assert bench.rows(number) == {slow: (20, 2), fast: (30, 3)}


def test_a_lane_whose_queue_is_halted_does_not_delay_other_lanes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BUFFERED_BYTES", 2_000)
    monkeypatch.setattr(partition_reader, "MAX_RECORDS", 4)
    bench.add_queues(2)
    lanes = bench.queues()
    halted, running = (next(k for k in "abcdefgh" if bench.queue_of(thing_set(0, k)) == q) for q in lanes)
    bench.live(thing_set(0, halted, 1))
    bench.log += [thing_set(n, halted if n % 4 else running, n) for n in range(1, 200)]
    bench.catch_up(lanes[1:])
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows() == {halted: (1, 1), running: (196, 49)}


def test_an_increment_for_a_record_of_a_compacted_topic_fails_the_generation(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    number = bench.begin(compacted_topics=["things"])
    assert not bench.rebuild(number)
    assert "things, which is compacted" in bench.generation(number).failed_reason
