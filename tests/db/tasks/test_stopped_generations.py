"""Only the projection with many failures or a broken table stops. It catches up when it is resumed."""

from collections.abc import Callable
from typing import Any

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.resuming import resume, resume_refusals
from sluice.db.admin.retention import purge_identities
from sluice.db.errors import DeploymentBroken
from sluice.db.projections.generations import detach_generations
from sluice.db.projections.stopped_generations import StoppedPlace
from sluice.kafka_io.log_range import LogRange, LogRanges
from sluice.kafka_io.record_types import Record
from tests.db.tasks import failing_projections, projecting
from tests.db.tasks.applying import thing_set
from tests.db.tasks.failing_projections import BAD, Bench, registry, shown
from tests.db.tasks.projecting import DECISION

bench = failing_projections.bench
opened = projecting.opened

FEWEST = 20
"""The number of failures that stops a generation."""
HIDE, SHOW = "ALTER TABLE totals_g1 RENAME TO hidden", "ALTER TABLE hidden RENAME TO totals_g1"


def bad_things(count: int, first: int = 0) -> list[Record]:
    """Returns `count` events that the failing code cannot project, each of another key."""
    return [thing_set(first + n, f"k{first + n}", BAD) for n in range(count)]


def resume_with(code: Bench, generation: int = 1) -> bool:
    """Runs `sluice rebuild resume` and one turn of a rebuild worker."""
    list(resume(code.session, code.redriver(), code.generation(generation), DECISION))
    return code.rebuild(generation)


def places(bench: Bench, generation: int = 1) -> list[tuple[Any, ...]]:
    query = "SELECT queue, applied_offset FROM sluice.generation_lanes"
    return bench.look(f"{query} WHERE generation = {generation} ORDER BY queue")


def test_many_failures_stop_the_generation_but_not_the_queue(bench: Bench, opened: Any) -> None:
    bench.live(*bad_things(FEWEST - 1))
    assert bench.states() == {1: "live"}
    bench.live(*bad_things(1, FEWEST - 1))
    assert bench.states() == {1: "stopped"}
    assert "20 of the last 20 events failed" in bench.generation(1).failed_reason
    assert places(bench) == [("thing.0", FEWEST - 1)]
    bench.live(*(thing_set(FEWEST + n, "free", n) for n in range(5)))
    assert len(bench.letters()) == FEWEST, "no letters are stored for later events"
    assert (bench.halted(), bench.outcomes()) == ([], {"applied": FEWEST + 5})
    assert (bench.rows(), bench.labelled()["free"], bench.amounts()["free"]) == ({}, (4, 5), 4)
    mended = opened(bench.with_code(registry()))
    assert resume_with(mended)
    assert mended.states() == {1: "live"}
    assert mended.rows() == mended.labelled()
    mended.live(thing_set(30, "free", 9))
    assert mended.rows() == mended.labelled()
    assert places(mended) == []


@pytest.mark.parametrize("kind", [thing_set, shown], ids=["handler and projection", "projection only"])
def test_a_missing_table_stops_the_generation_before_the_batch(
    bench: Bench, opened: Any, kind: Callable[..., Record]
) -> None:
    code = opened(bench.with_code(registry()))
    code.live(kind(0, "a", 1))
    code.look(HIDE)
    assert code.live(kind(1, "a", 2), kind(2, "b", 3)) is not None
    assert (code.states(), code.halted(), code.letters()) == ({1: "stopped"}, [], [])
    assert "totals_g1" in code.generation(1).failed_reason
    assert places(code) == [("thing.0", 0)]
    assert (code.labelled(), code.outcomes()) == ({"a": (2, 2), "b": (3, 1)}, {"applied": 3})
    code.live(kind(3, "b", 4))
    code.look(SHOW)
    assert resume_with(code)
    assert (code.states(), code.rows()) == ({1: "live"}, code.labelled())


def test_a_generation_that_was_swapped_in_stops_at_the_last_applied_offset(bench: Bench, opened: Any) -> None:
    """The generation must not stop at the older offset that the rebuild stored.

    After a resume from that offset, the events since the swap would be applied two times.
    """
    code = opened(bench.with_code(registry()))
    code.live(thing_set(0, "a", 1), thing_set(1, "b", 2))
    code.rebuild(code.begin())
    code.swap(2)
    code.live(thing_set(2, "a", 3), thing_set(3, "b", 4))
    code.look("ALTER TABLE totals_g2 RENAME TO away")
    code.live(thing_set(4, "a", 5))
    assert (code.states()[2], dict(places(code, 2))) == ("stopped", {"thing.0": 3})
    code.look("ALTER TABLE away RENAME TO totals_g2")
    assert resume_with(code, 2)
    assert (code.states()[2], code.rows(2)) == ("live", code.labelled())


def test_other_queues_stop_at_the_offset_before_their_next_batch(bench: Bench, opened: Any) -> None:
    bench.add_queues(3)
    keys = {bench.queue_of(thing_set(0, f"k{n}")): f"k{n}" for n in range(30)}
    log = [thing_set(n, keys[queue], 1) for n, queue in enumerate(sorted(keys))]
    bench.live(*log)
    broken, *others = sorted(keys)
    at = len(log)
    log = [thing_set(at + n, keys[broken], n) for n in range(3)]
    bench.look(HIDE)
    bench.live(*log)
    assert bench.states() == {1: "stopped"}
    assert places(bench) == [(broken, 0)]
    late = [thing_set(at + 3 + n, keys[queue], 7) for n, queue in enumerate(others)]
    bench.live(*late)
    assert places(bench) == [(queue, n) for n, queue in enumerate(sorted(keys))]
    bench.look(SHOW)
    assert resume_with(bench)
    assert (bench.states(), bench.rows()) == ({1: "live"}, bench.labelled())


def test_a_resume_keeps_the_order_of_letters_and_a_dead_letter_holds_its_entity(
    bench: Bench, opened: Any
) -> None:
    bench.live(thing_set(0, "a", 1), thing_set(1, "a", BAD), thing_set(2, "a", 3), thing_set(3, "b", 4))
    bench.look(HIDE)
    bench.live(thing_set(4, "a", 5), thing_set(5, "b", 6))
    bench.look(SHOW)
    assert bench.states() == {1: "stopped"}
    assert resume_with(bench), "the same code catches up"
    assert bench.rows() == {"a": (1, 1), "b": (6, 2)}
    assert [(offset, state) for offset, _, _, state, _ in bench.letters()] == [
        (1, "dead"),
        (2, "waiting"),
        (4, "waiting"),
    ]
    mended = opened(bench.with_code(registry()))
    assert mended.redrive_letters("a") is None
    assert mended.rows() == mended.labelled()


def test_a_generation_resumed_with_the_same_code_stops_again(bench: Bench, opened: Any) -> None:
    bench.live(*bad_things(FEWEST))
    bench.live(*bad_things(2 * FEWEST, FEWEST))
    assert not resume_with(bench)
    assert bench.states() == {1: "stopped"}
    mended = opened(bench.with_code(registry()))
    assert resume_with(mended)
    assert (mended.states(), mended.rows()) == ({1: "live"}, mended.labelled())


def test_workers_do_not_write_a_resumed_generation_before_it_catches_up(bench: Bench) -> None:
    bench.look(HIDE)
    bench.live(thing_set(0, "a", 1))
    bench.look(SHOW)
    list(resume(bench.session, bench.redriver(), bench.generation(1), DECISION))
    assert bench.states() == {1: "resuming"}
    bench.live(thing_set(1, "a", 2))
    assert bench.rows() == {}
    assert bench.rebuild(1, lambda: None)
    assert (bench.states(), bench.rows()) == ({1: "live"}, {"a": (2, 2)})


def test_an_event_that_is_redriven_while_the_generation_is_stopped_waits_in_the_generation(
    bench: Bench,
) -> None:
    bench.look("ALTER TABLE things ADD CONSTRAINT never CHECK (amount < 0 OR thing_id <> 'a')")
    bench.live(thing_set(0, "a", 2))
    assert bench.outcomes() == {"dead": 1}
    bench.look(HIDE)
    bench.live(thing_set(1, "b", 3))
    bench.look("ALTER TABLE things DROP CONSTRAINT never")
    bench.redrive("a")
    assert bench.letters() == [(0, "a", "waiting", "waiting", "Waiting")]
    bench.look(SHOW)
    assert resume_with(bench)
    assert bench.rows() == bench.labelled() == {"a": (2, 1), "b": (3, 1)}


def test_identities_are_kept_until_a_stopped_generation_catches_up(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    bench.look("UPDATE sluice.processed_events SET processed_at = now() - interval '3 days'")
    bench.look(HIDE)
    bench.live(thing_set(1, "a", 2))
    bench.look("""
        UPDATE sluice.processed_events SET processed_at = now() - interval '1 day' WHERE "offset" = 1;
        UPDATE sluice.generations SET stopped_at = now() - interval '1 day' WHERE state = 'stopped'
    """)
    assert purge_identities(bench.session, "things", 3_600, range(100)) == 1
    bench.look(SHOW)
    assert resume_with(bench)
    assert bench.rows() == {"a": (2, 2)}
    assert purge_identities(bench.session, "things", 3_600, range(100)) == 1


def test_a_stopped_generation_keeps_its_offset_when_another_generation_becomes_live(
    bench: Bench, opened: Any
) -> None:
    fixed = opened(bench.with_code(registry(lambda event: event.data.amount * 10, revision=2)))
    fixed.live(thing_set(0, "a", 1))
    number = fixed.begin()
    fixed.look(HIDE)
    fixed.live(thing_set(1, "a", 2))
    assert fixed.rebuild(number)
    assert fixed.states() == {1: "stopped", number: "ready"}
    fixed.look(SHOW)
    fixed.swap(number)
    fixed.live(thing_set(2, "a", 3))
    assert fixed.states() == {1: "stopped", number: "live"}
    assert (fixed.rows(), fixed.rows(1)) == ({"a": (30, 3)}, {"a": (10, 1)})
    with pytest.raises(OperationRefused, match="generation 1 of totals is stopped"):
        generation_changes.plan_swap(fixed.session, fixed.registry, "totals", 1, back=True)
    assert resume_with(fixed)
    assert fixed.states() == {1: "retired", number: "live"}
    assert fixed.rows(1) == {"a": (30, 3)}
    fixed.swap(1)
    assert fixed.rows() == {"a": (30, 3)}


def test_after_an_accept_a_new_generation_replaces_a_stopped_one(bench: Bench) -> None:
    bench.look(HIDE)
    bench.live(thing_set(0, "a", 1))
    bench.look(SHOW)
    assert detach_generations(bench.session, "topic things was accepted") == [("totals", 1)]
    assert bench.generation(1).stopped_at is None
    list(resume(bench.session, bench.redriver(), bench.generation(1), DECISION))
    assert bench.states() == {1: "stopped"}
    number = bench.begin()
    assert bench.rebuild(number)
    bench.swap(number)
    assert bench.rows() == {"a": (1, 1)}
    generation_changes.drop(bench.session, bench.generation(1), DECISION)
    assert bench.states() == {number: "live"}


def test_a_resume_with_a_broken_table_is_refused(bench: Bench) -> None:
    bench.live(thing_set(0, "a", BAD))
    bench.look(HIDE)
    bench.live(thing_set(1, "a", 2), thing_set(2, "b", 2))
    with pytest.raises((OperationRefused, DeploymentBroken), match="totals_g1"):
        resume_with(bench)
    assert bench.states() == {1: "stopped"}


@pytest.mark.parametrize(
    ("logs", "refusal"),
    [
        (LogRanges({("things", 0): LogRange(0, 9)}, {}), None),
        (LogRanges({("things", 0): LogRange(5, 9)}, {}), None),
        (LogRanges({("things", 0): LogRange(6, 9)}, {}), "begins at offset 6, so the records from 5 on"),
        (LogRanges({}, {}), "Kafka has no such topic"),
    ],
    ids=["whole log", "log from the next record", "log after the next record", "no topic"],
)
def test_a_resume_is_refused_if_the_log_lacks_the_next_record_of_the_generation(
    logs: LogRanges, refusal: str | None
) -> None:
    found = resume_refusals([StoppedPlace("totals", 1, "things", 0, 4)], logs)
    assert [refusal in one for one in found if refusal] == ([True] if refusal else [])
    assert bool(found) == (refusal is not None)
