"""The functions of `sluice rebuild`: they choose a generation, refuse some commands, and follow a rebuild."""

from contextlib import closing
from functools import partial
from typing import Any

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.doctor.queue_watch import watch
from sluice.admin.doctor.situation_reading import read_generation_facts
from sluice.admin.rebuild import generation_changes, report
from sluice.admin.rebuild.checkpoints import check_checkpoint
from sluice.admin.rebuild.generation_changes import (
    plan_swap,
    require_building,
    require_ended,
    require_rebuilt,
)
from sluice.admin.rebuild.rebuild_progress import follow, generation_document
from sluice.db.admin.waiting_facts import read_generation_progress
from sluice.db.projections import generation_tables
from sluice.db.projections.generation_tables import count_rows, read_table
from sluice.db.projections.generations import read_generations
from tests.db.living import add_process, end_process
from tests.db.tasks import projecting
from tests.db.tasks.applying import thing_set
from tests.db.tasks.projecting import DECISION, Bench, registry

bench = projecting.bench
opened = projecting.opened


def compared(bench: Bench, number: int) -> None:
    report.compare(bench.session, bench.registry, bench.generation(number))


def plan(bench: Bench, number: int | None = None, *, back: bool = False) -> tuple[int, int]:
    """Returns the number of the generation that a swap would make live, and the number of the live one."""
    found = plan_swap(bench.session, bench.registry, "totals", number, back=back)
    return found.generation.generation, found.live


@pytest.fixture
def fixed(bench: Bench, opened: Any) -> Bench:
    """Returns the bench of changed code. Its generation 2 is ready and differs from the live generation."""
    bench.live(thing_set(0, "a", 1))
    fixed: Bench = opened(bench.with_code(registry(2, 10)))
    assert fixed.rebuild(fixed.begin())
    return fixed


def test_a_swap_requires_a_report_and_its_approval(fixed: Bench) -> None:
    with pytest.raises(OperationRefused, match="never compared"):
        plan(fixed)
    compared(fixed, 2)
    with pytest.raises(OperationRefused, match="differs in 1 row"):
        plan(fixed)
    found = report.require_report(fixed.session, fixed.generation(2))
    report.approve(fixed.session, found, DECISION)
    assert plan(fixed) == (2, 1)


def test_a_swap_back_requires_no_report_and_selects_the_previous_live_generation(fixed: Bench) -> None:
    fixed.swap(2)
    assert plan(fixed, back=True) == (1, 2)
    with pytest.raises(OperationRefused, match="a ready generation can be swapped in"):
        plan(fixed)
    number = fixed.begin()
    assert fixed.rebuild(number)
    fixed.swap(number)
    assert plan(fixed, back=True) == (2, number)


def test_a_mutant_of_the_swap_that_refuses_nothing_is_caught(
    fixed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_changes, "swap_refusals", lambda *_, **__: [])
    with pytest.raises(pytest.fail.Exception):
        test_a_swap_requires_a_report_and_its_approval(fixed)


def test_only_a_building_generation_is_cancelled_and_only_an_ended_generation_is_dropped(
    bench: Bench,
) -> None:
    bench.live(thing_set(0, "a", 1))
    number = bench.begin()
    assert require_building(bench.session, "totals", None).generation == number
    assert require_rebuilt(bench.session, "totals", None).generation == number
    with pytest.raises(OperationRefused, match="only a retired, failed, stopped or ready generation can"):
        require_ended(bench.session, "totals", number)
    assert bench.rebuild(number)
    assert require_ended(bench.session, "totals", None).generation == number
    with pytest.raises(OperationRefused, match="only a generation that is being built can be cancelled"):
        require_building(bench.session, "totals", number)


def test_a_generation_without_a_comparison_has_no_report_to_approve(fixed: Bench) -> None:
    found = report.require_comparable(fixed.session, "totals", None, verb="approved")
    with pytest.raises(OperationRefused, match="never compared: run `sluice rebuild diff totals`"):
        report.require_report(fixed.session, found)


def test_a_rebuild_is_followed_until_it_is_ready(bench: Bench) -> None:
    bench.live(*(thing_set(n, "a", n) for n in range(300)))
    number = bench.begin()
    seen = [
        moved.reached.done
        for moved in follow(bench.session, "totals", number, sleep=lambda _: bench.rebuild(number))
    ]
    assert seen == [0]
    assert bench.states()[number] == "ready"
    document = generation_document(bench.session, bench.generation(number))
    assert (document["done"], document["total"], document["folded"]) == (300, 300, 300)


def test_rows_are_counted_and_not_estimated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.live(*(thing_set(n, f"k{n}", n) for n in range(7)))
    [live] = read_generations(bench.session, "totals")
    assert read_table(bench.session, live.table).estimated_rows == 0, "the table was never analyzed"
    assert count_rows(bench.session, live.table) == 7
    monkeypatch.setattr(generation_tables, "COUNTING", "SET LOCAL statement_timeout = '100ms'")
    with closing(bench.session.another("test holder")) as holder, holder.transaction():
        holder.command(f"LOCK TABLE public.{live.table}")
        assert count_rows(bench.session, live.table) is None


class SteppingClock:
    """A simulated clock that counts the calls of `sleep`. Each call advances the clock by the same time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.sleeps = seconds, 0.0, 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, _: float) -> None:
        self.now += self.seconds
        self.sleeps += 1


@pytest.mark.parametrize(("seconds", "said"), [(2.5, [2, 26]), (5.0, [1, 13, 25, 37]), (0.1, [])])
def test_a_generation_without_a_worker_is_reported_after_5_seconds_and_then_every_minute(
    bench: Bench, seconds: float, said: list[int]
) -> None:
    bench.live(thing_set(0, "a", 1))
    number, time_ = bench.begin(), SteppingClock(seconds)
    found = []
    for moved in follow(bench.session, "totals", number, clock=time_, sleep=time_.sleep):
        if moved.unfilled is not None:
            found.append(time_.sleeps)
            assert f"Generation {number} of totals is building, and no worker serves" in moved.unfilled
            assert "Start one: `sluice rebuild-worker`." in moved.unfilled
        if time_.sleeps == 40:
            assert bench.rebuild(number)
    assert found == said


def test_a_slow_generation_with_a_worker_is_not_reported(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    number, time_ = bench.begin(), SteppingClock(60.0)
    worker = add_process(bench.session, queues=["rebuild"])
    moves = follow(bench.session, "totals", number, clock=time_, sleep=time_.sleep)
    assert [next(moves).unfilled for _ in range(3)] == [None] * 3
    end_process(bench.session, worker)
    assert next(moves).unfilled is not None


def pause(bench: Bench, number: int) -> None:
    generation = bench.generation(number)
    generation_changes.set_pace(bench.session, generation, paused=True, rate=None, decision=DECISION)


def drop(bench: Bench, number: int) -> None:
    generation_changes.drop(bench.session, bench.generation(number), DECISION)


@pytest.mark.parametrize(("change", "said"), [(pause, "is paused"), (drop, "was dropped meanwhile")])
def test_following_ends_when_a_generation_is_paused_or_dropped(bench: Bench, change: Any, said: str) -> None:
    bench.live(thing_set(0, "a", 1))
    number = bench.begin()
    with pytest.raises(OperationRefused, match=said):
        list(follow(bench.session, "totals", number, sleep=lambda _: change(bench, number)))


@pytest.mark.parametrize(
    ("name", "drop", "said"),
    [
        ("Upper", False, "beginning with a letter"),
        ("kept", False, "has a checkpoint kept already"),
        ("other", True, "has no checkpoint other"),
        ("other", False, None),
        ("kept", True, None),
    ],
)
def test_checkpoints_are_checked_before_the_operator_confirms(
    bench: Bench, name: str, drop: bool, said: str | None
) -> None:
    bench.live(thing_set(0, "a", 1))
    bench.checkpoint("kept")
    if said is None:
        check_checkpoint(bench.session, "totals", name, drop=drop)
    else:
        with pytest.raises(OperationRefused, match=said):
            check_checkpoint(bench.session, "totals", name, drop=drop)


def test_only_a_generation_without_progress_is_found(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    number, time_ = bench.begin(), SteppingClock(0.5)
    generation = ("totals", number)
    [facts] = [one for one in read_generation_facts(bench.session) if one.generation == number]
    assert (facts.lags, facts.paused, facts.rate) == (True, False, None)
    read = partial(read_generation_progress, bench.session)
    assert watch({generation}, read, 1.0, sleep=time_.sleep, clock=time_) == {generation: 1.0}

    def fill(_: float) -> None:
        assert bench.rebuild(number)

    assert watch({generation}, read, 1.0, sleep=fill, clock=time_) == {}
    [facts] = [one for one in read_generation_facts(bench.session) if one.generation == number]
    assert not facts.lags
