"""Locks keep rebuilds and swaps correct while workers apply events. Mutants without the locks are caught."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.generation_locks import Held
from sluice.db.projections import generations
from sluice.stack.patience import patient
from sluice.tasks.apply import generation_feed
from sluice.tasks.rebuild import chunk_feed, rebuild, rebuild_lane
from tests.db.tasks import projecting
from tests.db.tasks.applying import thing_set
from tests.db.tasks.projecting import Bench, registry
from tests.waiting import WAITING_BACKENDS, wait_until

bench = projecting.bench
opened = projecting.opened


def rebuild_while_an_event_arrives(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Applies the next event while a rebuild applies a chunk. Returns the rows of the generation."""
    bench.live(thing_set(0, "a", 1))
    bench.log.append(thing_set(1, "b", 2))
    number = bench.begin()
    applying = threading.Thread(target=other.catch_up)
    fold = generation_feed.apply_to_generation

    def fold_slowly(*arguments: Any) -> Any:
        if applying.ident is None:
            applying.start()
            wait_until(
                lambda: bench.look(WAITING_BACKENDS) or not applying.is_alive(),
                timeout_seconds=10,
                what="the event waits for the queue or is applied",
            )
        return fold(*arguments)

    monkeypatch.setattr(chunk_feed, "apply_to_generation", fold_slowly)
    bench.rebuild(number)
    applying.join(patient(30))
    assert bench.rebuild(number)
    assert bench.rows() == {"a": (1, 1), "b": (2, 1)}
    return bench.rows(number)


def test_a_rebuild_loses_no_event_when_it_catches_up_with_the_live_generation(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = opened(bench.with_code(bench.registry))
    assert rebuild_while_an_event_arrives(bench, other, monkeypatch) == bench.rows()


def test_a_mutant_that_reads_beyond_the_live_generation_is_caught(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beyond(
        offsets: Sequence[int], *, live: int, read_through: int, **_: Any
    ) -> rebuild_lane.Chunk | None:
        assert read_through >= live
        return rebuild_lane.Chunk(len(offsets), offsets[-1], locked=False) if offsets else None

    monkeypatch.setattr(rebuild, "next_chunk", beyond)
    other = opened(bench.with_code(bench.registry))
    assert rebuild_while_an_event_arrives(bench, other, monkeypatch) == {"a": (1, 1)}, (
        "the mutant loses no event"
    )


def swap_while_an_event_arrives(bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Applies an event between the check of the lanes and the swap.

    Returns True if the event is missing in the view afterwards.
    """
    bench.live(thing_set(0, "a", 1))
    number = bench.begin()
    assert bench.rebuild(number)
    bench.log.append(thing_set(1, "a", 2))
    applying = threading.Thread(target=other.catch_up)
    set_live = generations.set_live

    def set_live_slowly(*arguments: Any) -> None:
        applying.start()
        wait_until(
            lambda: bench.look(WAITING_BACKENDS) or not applying.is_alive(),
            timeout_seconds=10,
            what="the event waits for the queue or is applied",
        )
        set_live(*arguments)

    monkeypatch.setattr(generations, "set_live", set_live_slowly)
    bench.swap(number)
    applying.join(patient(30))
    bench.live(thing_set(2, "a", 3))
    return bench.rows() != {"a": (3, 3)}


def test_no_event_is_applied_during_a_swap(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This code does not write the new generation, because its revision differs. If it could apply the event
    # during the swap, the new generation would lack the event.
    assert not swap_while_an_event_arrives(bench, opened(bench.with_code(registry(2))), monkeypatch)


def test_a_mutant_that_swaps_without_the_locks_is_caught(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_changes, "lock_all", lambda _session: None)
    other = opened(bench.with_code(registry(2)))
    assert swap_while_an_event_arrives(bench, other, monkeypatch), "the mutant loses no event"


def test_a_long_query_of_a_reader_delays_only_the_swap(bench: Bench, opened: Any) -> None:
    bench.live(thing_set(0, "a", 5))
    fixed = opened(bench.with_code(registry(2, 10)))
    number = fixed.begin()
    assert fixed.rebuild(number)
    reader = opened(bench.with_code(bench.registry))
    reader.session.command("BEGIN; SELECT FROM public.totals")
    with pytest.raises(Held, match="has locked a queue, or the view totals, for too long"):
        fixed.swap(number)
    assert fixed.live(thing_set(1, "a", 6)) is not None
    reader.session.command("COMMIT")
    fixed.swap(number)
    assert bench.rows() == {"a": (60, 2)}
