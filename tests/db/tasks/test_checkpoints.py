"""Checkpoints of a generation. The log before a checkpoint may be deleted, and no later event is lost."""

from collections.abc import Iterator

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild.checkpoints import drop_checkpoint
from sluice.admin.rebuild.generation_locks import require_lockstep
from sluice.db.projections.generation_tables import read_table
from sluice.db.projections.table_traits import read_traits
from sluice.kafka_io.bounded_record import bounded
from tests.db.tasks import projecting
from tests.db.tasks.applying import thing_set
from tests.db.tasks.projecting import DECISION, Bench, poison, registry

bench = projecting.bench


@pytest.fixture
def fixed(bench: Bench) -> Iterator[Bench]:
    """Yields a bench with new code: amounts are ten times as large, and the handler accepts poison events."""
    made = bench.with_code(registry(2, 10, mended=True))
    yield made
    made.close()


def move_watermark(bench: Bench) -> None:
    """Moves the watermark to the end of the log, as the bridge does."""
    bench.looking.command(
        "DELETE FROM sluice.partition_watermarks;"
        f"INSERT INTO sluice.partition_watermarks VALUES ('things', 0, 1, {len(bench.log)})"
    )


def test_rows_of_the_checkpoint_stay_and_later_events_are_computed_again(bench: Bench, fixed: Bench) -> None:
    bench.live(thing_set(0, "a", 1), thing_set(1, "b", 2))
    move_watermark(bench)
    kept = bench.checkpoint("monday")
    bench.live(thing_set(2, "b", 3), thing_set(3, "c", 4))
    del bench.log[:2]  # Retention deletes these records.
    number = fixed.begin(checkpoint=kept)
    assert fixed.rebuild(number)
    assert bench.rows(number) == {"a": (1, 1), "b": (30, 2), "c": (40, 1)}
    assert bench.rows() == {"a": (1, 1), "b": (3, 2), "c": (4, 1)}
    fixed.live(thing_set(4, "a", 5))
    assert bench.rows(number)["a"] == (50, 2)


def test_the_table_of_a_checkpoint_belongs_to_the_owner_of_the_projection(bench: Bench) -> None:
    """Not to the operator's role. The rights on the projection are also those on the checkpoint."""
    live = "totals_g1"
    bench.looking.command(f"GRANT SELECT ON public.{live} TO PUBLIC")
    bench.looking.command(f"ALTER TABLE public.{live} OWNER TO pg_monitor")
    kept = bench.checkpoint("monday")
    facts = [read_table(bench.looking, name) for name in (live, kept.table)]
    assert [one.owner for one in facts] == ["pg_monitor", "pg_monitor"]
    assert read_traits(bench.looking, kept.table) == read_traits(bench.looking, live)


def test_a_rebuild_is_refused_if_a_late_event_is_not_stored_whole(bench: Bench) -> None:
    bench.kafka[0] = thing_set(0, "a", 5)
    bench.live(bounded(bench.kafka[0], 10))
    kept = bench.checkpoint("monday")
    bench.redrive("a")
    with pytest.raises(OperationRefused, match="things:0:0 was applied after checkpoint monday and is not"):
        bench.begin(checkpoint=kept)


@pytest.mark.parametrize("redriven", ["before the rebuild", "during the rebuild", "after the rebuild"])
def test_an_event_dead_at_the_checkpoint_and_redriven_later_is_counted_once(
    bench: Bench, fixed: Bench, redriven: str
) -> None:
    bench.live(thing_set(0, "k", 1), poison(1, "k", 2), thing_set(2, "k", 3))
    move_watermark(bench)
    kept = bench.checkpoint("monday")
    bench.live(thing_set(3, "k", 4))
    if redriven == "before the rebuild":
        fixed.redrive()
        fixed.live(thing_set(4, "k", 5))
    number = fixed.begin(checkpoint=kept)
    if redriven == "during the rebuild":
        fixed.redrive()
        fixed.live(thing_set(4, "k", 5))
    assert fixed.rebuild(number)
    if redriven == "after the rebuild":
        fixed.redrive()
        fixed.live(thing_set(4, "k", 5))
    assert fixed.rebuild(number)
    assert bench.rows(number) == {"k": (50, 5)}
    assert bench.rows() == {"k": (50, 5)}


def test_an_event_that_was_dropped_after_the_checkpoint_is_not_applied_by_a_rebuild(
    bench: Bench, fixed: Bench
) -> None:
    bench.live(poison(0, "k", 2))
    move_watermark(bench)
    kept = bench.checkpoint("monday")
    bench.looking.command("UPDATE sluice.dead_letters SET state = 'dropped'")
    number = fixed.begin(checkpoint=kept)
    assert fixed.rebuild(number)
    assert bench.rows(number) == {}


def test_a_generation_is_in_lockstep_although_its_last_record_is_far_below_the_watermark(
    bench: Bench,
) -> None:
    bench.live(thing_set(0, "a", 1))
    bench.looking.command("INSERT INTO sluice.partition_watermarks VALUES ('things', 0, 1, 9)")
    number = bench.begin(checkpoint=bench.checkpoint("monday"))
    assert bench.rebuild(number)
    require_lockstep(bench.session, "totals", number)
    bench.live(thing_set(9, "a", 2))
    assert bench.rows(number) == bench.rows() == {"a": (2, 2)}
    require_lockstep(bench.session, "totals", number)


def test_a_rebuild_is_refused_if_a_letter_of_the_checkpoint_was_deleted(bench: Bench, fixed: Bench) -> None:
    bench.live(poison(0, "k", 2))
    move_watermark(bench)
    kept = bench.checkpoint("monday")
    bench.looking.command("DELETE FROM sluice.dead_letters")
    with pytest.raises(OperationRefused, match="1 event was dead or waiting at checkpoint monday"):
        fixed.begin(checkpoint=kept)
    assert bench.states() == {1: "live"}


def test_a_name_can_be_used_again_after_its_checkpoint_is_dropped(bench: Bench) -> None:
    bench.checkpoint("monday")
    with pytest.raises(OperationRefused, match="there is a checkpoint monday already"):
        bench.checkpoint("monday")
    drop_checkpoint(bench.session, "totals", "monday", DECISION)
    assert bench.look("SELECT to_regclass('public.totals_at_monday')") == [(None,)]
    with pytest.raises(OperationRefused, match="totals has no checkpoint monday"):
        drop_checkpoint(bench.session, "totals", "monday", DECISION)
    bench.checkpoint("monday")
