"""The fold that assumes absent or older rows gives the results of the exact fold with absent rows."""

from collections.abc import Sequence
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sluice.tasks.api import Call, Emit, Increment, Insert, Upsert
from sluice.tasks.apply.optimism import MOST_SKIPPED, Mode, Optimism
from sluice.tasks.fold.assumed_fold import AssumedFold, fold_assuming, needs_rows, stays_apart
from sluice.tasks.fold.assumed_writes import writes_by_table
from sluice.tasks.fold.plan import Planned, touched_rows
from sluice.tasks.fold.sharing import Sharing
from tests.unit.tasks.newer_logs import newer_logs
from tests.unit.tasks.scripted import folded, scripted
from tests.unit.tasks.strategies import PLAIN, whole


def assumed(log: Sequence[Planned]) -> AssumedFold:
    sharing = Sharing(log)
    seeds = {n for n, planned in enumerate(log) if stays_apart(planned, frozenset()) or needs_rows(planned)}
    return fold_assuming(log, sharing.closure, seeds)


@settings(deadline=None, max_examples=60)
@given(newer_logs())
def test_each_event_has_the_result_of_the_exact_fold(log: list[Planned]) -> None:
    found = assumed(log)
    apart, _ = folded(*[planned for number, planned in enumerate(log) if number not in found.events])
    assume(apart.rows.keys().isdisjoint(found.rows))  # else the writer leaves the batch to the exact fold
    memory, exact = folded(*log)
    first = 0
    for number, settled in enumerate(exact.settled):
        emits = exact.emits[first : first + settled.emitted]
        first += settled.emitted
        if number in found.events:
            one = found.events[number]
            assert (one.result.outcome, one.result.first) == (settled.outcome, settled.first)
            assert list(one.emits) == emits
            assert one.result.outgoing == settled.outgoing
    keys = {call.effect_key for one in found.events.values() for call in one.calls}
    assert keys <= {call.effect_key for call in exact.calls}
    for (table, key), row in found.rows.items():
        values = memory.rows[table, key].values
        assert values is not None
        if row.fields is not None:
            assert {name: values[name] for name in row.fields} == row.fields
            assert row.version == memory.rows[table, key].version
            assert row.inserted_hash == memory.rows[table, key].inserted_hash


@settings(deadline=None, max_examples=40)
@given(newer_logs(), st.sets(st.integers(0, 13)))
def test_events_that_are_left_share_nothing_with_the_others(log: list[Planned], seeds: set[int]) -> None:
    left = Sharing(log).closure({number for number in seeds if number < len(log)})
    here = {place for number in left for place in touched_rows(log[number])}
    for number, planned in enumerate(log):
        if number not in left:
            assert not here & set(touched_rows(planned))
            assert planned.decoded.entity_key not in {log[n].decoded.entity_key for n in left}


def upserted(offset: int, version: int | None, **more: Any) -> Planned:
    return scripted(offset, Upsert(PLAIN, "k", whole(PLAIN, {"a": str(offset)}), version), key="k", **more)


def only_row(log: Sequence[Planned]) -> Any:
    [writes] = writes_by_table(assumed(log)).values()
    rows: list[Any] = [*writes.whole, *writes.counted, *writes.inserted]
    assert len(rows) == 1
    return rows[0]


def test_the_first_version_of_a_row_is_its_guard_and_the_newest_is_written() -> None:
    row = only_row([upserted(0, 5), upserted(1, 3), upserted(2, 9)])
    assert (row.older_than, row.version, row.fields[0]) == (5, 9, "2")
    assert only_row([upserted(0, None)]).older_than is None
    assert only_row([upserted(0, None), upserted(1, 4)]).older_than == 4


def test_counters_are_summed_and_an_increment_of_the_other_sign_needs_the_row() -> None:
    added = [scripted(n, Increment(PLAIN, "k", {"count": delta}), key="k") for n, delta in enumerate((2, 3))]
    assert list(only_row(added).sums) == [5]
    taken = scripted(2, Increment(PLAIN, "k", {"count": -1}), key="k")
    assert assumed([*added, taken]).events == {}


def test_an_insert_must_be_the_first_write_of_its_row() -> None:
    insert = scripted(1, Insert(PLAIN, "k", {}), key="k")
    assert set(assumed([insert, upserted(2, 3)]).events) == {0, 1}
    assert assumed([upserted(0, 3), insert]).events == {}


def test_two_calls_with_one_key_need_the_ledger() -> None:
    calls = [scripted(n, Call("notify", "once", {}), key=f"k{n}") for n in range(2)]
    alone = scripted(2, Emit("out", "k", "told", {}), key="other")
    assert set(assumed([*calls, alone]).events) == {2}


def test_a_queue_that_deviates_often_is_tried_seldom() -> None:
    optimism, tried = Optimism(), 0
    for _ in range(1_000):
        if optimism.allows("q"):
            tried += 1
            optimism.note_deviation("q")
            assert not optimism.allows("q"), "the same batch is not tried again"
        optimism.note_committed("q", optimistic=False)
    assert tried < 2 * 1_000 / MOST_SKIPPED + 8
    assert optimism.allows("another")


def test_a_success_lowers_the_price_of_the_next_deviation() -> None:
    optimism = Optimism()
    for _ in range(8):
        optimism.note_deviation("q")
    for _ in range(MOST_SKIPPED):
        optimism.note_committed("q", optimistic=False)
    for _ in range(10):
        assert optimism.allows("q")
        optimism.note_committed("q", optimistic=True)
    optimism.note_deviation("q")
    optimism.note_committed("q", optimistic=False)
    assert optimism.allows("q"), "only one batch was skipped"


def test_the_modes_always_and_never_do_not_depend_on_deviations() -> None:
    modes: tuple[tuple[Mode, bool], ...] = (("always", True), ("never", False))
    for mode, tried in modes:
        optimism = Optimism(mode)
        optimism.note_deviation("q")
        assert not optimism.allows("q")
        optimism.note_committed("q", optimistic=False)
        assert optimism.allows("q") is tried
