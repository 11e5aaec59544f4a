"""A second generation is built from the log, kept in sync, made live by a swap, and swapped back."""

from typing import Any

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.generation_locks import Behind
from tests.db.tasks import projecting
from tests.db.tasks.applying import thing_set
from tests.db.tasks.projecting import DECISION, Bench, registry

bench = projecting.bench
opened = projecting.opened


def test_readers_see_the_live_generation_when_events_are_applied(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 5), thing_set(1, "b", 7), thing_set(2, "a", 6))
    assert bench.rows() == bench.rows(1) == {"a": (6, 2), "b": (7, 1)}
    assert bench.outcomes() == {"applied": 3}


def test_a_generation_is_rebuilt_kept_in_sync_swapped_in_and_swapped_back(bench: Bench, opened: Any) -> None:
    bench.live(thing_set(0, "a", 5), thing_set(1, "b", 7))
    fixed = opened(bench.with_code(registry(2, 10)))
    assert fixed.begin() == 2
    assert fixed.rebuild(2)
    assert bench.states() == {1: "live", 2: "ready"}
    assert bench.rows(2) == {"a": (50, 1), "b": (70, 1)}
    # From here on, the transactions of the workers keep the generation in sync.
    fixed.live(thing_set(2, "a", 6))
    assert (bench.rows(1), bench.rows(2)) == ({"a": (60, 2), "b": (7, 1)}, {"a": (60, 2), "b": (70, 1)})
    assert fixed.swap(2) == 1
    assert bench.states() == {1: "retired", 2: "live"}
    assert bench.rows() == bench.rows(2)
    fixed.live(thing_set(3, "b", 8))
    assert bench.rows() == {"a": (60, 2), "b": (80, 2)}
    assert fixed.swap(1) == 2
    assert bench.rows() == bench.rows(1) == {"a": (60, 2), "b": (80, 2)}
    fixed.live(thing_set(4, "b", 9))
    assert bench.rows(1) == bench.rows(2) == {"a": (60, 2), "b": (90, 3)}
    generation_changes.drop(fixed.session, fixed.generation(2), DECISION)
    assert bench.states() == {1: "live"}
    assert bench.look("SELECT to_regclass('public.totals_g2')") == [(None,)]


def test_a_swap_keeps_grants_on_the_view_and_views_over_it(bench: Bench, opened: Any) -> None:
    bench.live(thing_set(0, "a", 5))
    bench.looking.command(
        "GRANT SELECT ON public.totals TO PUBLIC;"
        "CREATE VIEW public.sums AS SELECT sum(amount) AS amount FROM public.totals"
    )
    fixed = opened(bench.with_code(registry(2, 10)))
    number = fixed.begin()
    assert fixed.rebuild(number)
    fixed.swap(number)
    assert bench.look("SELECT amount FROM public.sums") == [(50,)]
    granted = "SELECT privilege_type FROM information_schema.table_privileges WHERE grantee = 'PUBLIC'"
    assert bench.look(f"{granted} AND table_name = 'totals'") == [("SELECT",)]


def test_old_code_never_writes_the_new_generation(bench: Bench, opened: Any) -> None:
    fixed = opened(bench.with_code(registry(2, 10)))
    bench.live(thing_set(0, "a", 1))
    number = fixed.begin()
    assert fixed.rebuild(number)
    # This worker runs the old code.
    bench.live(thing_set(1, "a", 2))
    assert (bench.rows(1), bench.rows(number)) == ({"a": (2, 2)}, {"a": (10, 1)})
    # This worker runs the new code. The generation lags, so it does not change.
    fixed.live(thing_set(2, "a", 3))
    assert (bench.rows(1), bench.rows(number)) == ({"a": (30, 3)}, {"a": (10, 1)})
    with pytest.raises(Behind, match="1 lane of generation 2 is behind the live generation"):
        fixed.swap(number)
    assert not bench.rebuild(number), "the old deployment's rebuild worker does not write the generation"
    assert bench.rows(number) == {"a": (10, 1)}
    assert fixed.rebuild(number)
    assert bench.rows(number) == {"a": (30, 3)}


def test_a_swap_without_lockstep_is_refused(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    number = bench.begin()
    with pytest.raises(OperationRefused, match="is building"):
        bench.swap(number)


def test_a_paused_generation_does_not_change(bench: Bench) -> None:
    bench.live(*(thing_set(n, "a", n) for n in range(500)))
    number = bench.begin()
    generation_changes.set_pace(
        bench.session, bench.generation(number), paused=True, rate=None, decision=DECISION
    )
    assert not bench.rebuild(number)
    assert bench.rows(number) == {}
    generation_changes.set_pace(
        bench.session, bench.generation(number), paused=False, rate=None, decision=DECISION
    )
    assert bench.rebuild(number)
    assert bench.rows(number) == {"a": (499, 500)}
