"""Tests which slices the guard allows to apply, compared with a model that has the whole lane."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from sluice.tasks.apply.guard import Judgement, first_unapplied, judge

REROUTED, REPEATED, NEXT, GAP = Judgement.REROUTED, Judgement.REPEATED, Judgement.NEXT, Judgement.GAP
Judge = Callable[..., Judgement]


class Cut(NamedTuple):
    """A correct slice of a lane: the records with the numbers start to end - 1. A number is not an offset."""

    start: int
    end: int


class Delivery(NamedTuple):
    """The offsets of a lane, which have gaps, and slices of the lane, in any order and with repeats."""

    offsets: list[int]
    cuts: list[Cut]


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    offsets = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=12)))
    starts = st.integers(0, len(offsets) - 1)
    cuts = starts.flatmap(lambda a: st.builds(Cut, st.just(a), st.integers(a + 1, len(offsets))))
    return Delivery(offsets, draw(st.lists(cuts, max_size=12)))


def applied_records(delivery: Delivery, judging: Judge) -> list[int]:
    """Returns the offsets that a worker applies if it judges these slices in turn."""
    offsets, cuts = delivery
    applied: list[int] = []
    for cut in cuts:
        mine = offsets[cut.start : cut.end]
        prev = offsets[cut.start - 1] if cut.start else -1
        last = applied[-1] if applied else -1
        judgement = judging(epoch=1, prev=prev, last=mine[-1], current_epoch=1, applied_offset=last)
        if judgement is NEXT:
            applied += mine[first_unapplied(mine, last) :]
    return applied


def modelled_records(delivery: Delivery) -> list[int]:
    """Returns the offsets that the model applies: each slice that starts at or before the next record."""
    done = 0
    for cut in delivery.cuts:
        if cut.start <= done:
            done = max(done, cut.end)
    return delivery.offsets[:done]


@given(deliveries())
def test_a_lane_is_applied_from_its_start_without_gap_or_repeat(delivery: Delivery) -> None:
    assert applied_records(delivery, judge) == modelled_records(delivery)


def ignores_prev(**claim: Any) -> Judgement:
    """A mutant that applies a slice after a gap."""
    return NEXT if judge(**claim) is GAP else judge(**claim)


def requires_exact_prev(**claim: Any) -> Judgement:
    """A mutant that refuses a slice that overlaps the applied records."""
    return GAP if claim["prev"] != claim["applied_offset"] else judge(**claim)


@pytest.mark.parametrize("mutant", [ignores_prev, requires_exact_prev])
def test_the_model_catches_a_mutant(mutant: Judge) -> None:
    quiet = settings(max_examples=500, database=None, derandomize=True, phases=[Phase.generate])
    find(deliveries(), lambda d: applied_records(d, mutant) != modelled_records(d), settings=quiet)


CASES = [
    ("next", {"prev": 4, "last": 9, "applied_offset": 4}, NEXT),
    ("overlapping", {"prev": 2, "last": 9, "applied_offset": 4}, NEXT),
    ("first of a lane", {"prev": -1, "last": 0, "applied_offset": -1}, NEXT),
    ("repeated", {"prev": -1, "last": 4, "applied_offset": 4}, REPEATED),
    ("repeated, further back", {"prev": -1, "last": 3, "applied_offset": 4}, REPEATED),
    ("an earlier slice is missing", {"prev": 5, "last": 9, "applied_offset": 4}, GAP),
    ("a lane without a row", {"prev": 0, "last": 9, "applied_offset": -1}, GAP),
    ("another epoch", {"prev": 4, "last": 9, "applied_offset": 4, "epoch": 2}, REROUTED),
    ("an older epoch, applied", {"prev": -1, "last": 4, "applied_offset": 4, "epoch": 0}, REROUTED),
    ("an unknown topic", {"prev": 4, "last": 9, "applied_offset": 4, "current_epoch": None}, REROUTED),
]


@pytest.mark.parametrize(("claim", "judgement"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_the_guard_judges_a_slice(claim: dict[str, Any], judgement: Judgement) -> None:
    assert judge(**{"epoch": 1, "current_epoch": 1, **claim}) is judgement


@given(st.sets(st.integers(0, 50)), st.integers(-1, 51))
def test_first_unapplied_finds_the_first_offset_after_the_applied_offset(
    offsets: set[int], applied: int
) -> None:
    rising = sorted(offsets)
    assert rising[first_unapplied(rising, applied) :] == [offset for offset in rising if offset > applied]
