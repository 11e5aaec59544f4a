"""`sluice erase` deletes the rows of an entity. Older records of the entity then restore no row."""

from typing import Any

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.erase import erase
from sluice.db.apply.erasures import lower_log_ends
from sluice.kafka_io.record_types import Record
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.events.decode import decode
from tests.db.admin import erasing
from tests.db.admin.erasing import KEY, erase_key, mentions, of, sent
from tests.db.tasks.applying import TOPIC, TOPIC_ID, made, slice_of
from tests.db.tasks.projecting import Bench, poison, registry

bench = erasing.bench


def outcomes(bench: Bench) -> dict[str, int]:
    found = bench.look(
        "SELECT sum(applied), sum(duplicate), sum(conflict), sum(waiting), sum(dead), sum(erased)"
        " FROM sluice.lane_offsets"
    )
    names = ("applied", "duplicate", "conflict", "waiting", "dead", "erased")
    return {name: int(count) for name, count in zip(names, found[0], strict=True) if count}


def test_rows_are_deleted_in_all_tables_generations_and_checkpoints(bench: Bench) -> None:
    bench.live(of(KEY, 0), of("bob", 1))
    bench.checkpoint("kept")
    number = bench.begin()
    assert bench.rebuild(number)
    sent(bench)
    found = erase_key(bench)
    assert {table: count for table, count in found.rows.items() if table.startswith(("thing", "totals"))} == {
        "things": 1,
        "totals_g1": 1,
        "totals_at_kept": 1,
        f"totals_g{number}": 1,
    }
    assert mentions(bench) == []
    assert bench.amounts() == {"bob": 1}
    assert KEY not in str(found)
    assert found.erased.startswith("erased:")


def test_newer_records_are_applied_and_older_records_are_not(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    late = [of(KEY, 1), made(2, "no such type", KEY), poison(3, KEY), of("bob", 4)]
    bench.log += late
    erase_key(bench)
    bench.catch_up()
    assert outcomes(bench) == {"applied": 2, "erased": 3}
    assert (bench.amounts(), mentions(bench)) == ({"bob": 4}, [])
    bench.live(of(KEY, 5))
    assert bench.amounts() == {"bob": 4, KEY: 5}
    assert bench.rows() == {"bob": (4, 1), KEY: (5, 1)}


def conflict(offset: int) -> Record:
    return made(offset, "thing.set", KEY, event_id=f"{KEY}:0", amount=99)


@pytest.mark.parametrize(
    ("late", "counted"),
    [
        (lambda n: of(KEY, n), {"erased": 1}),
        (lambda n: of(KEY, 0)._replace(offset=n), {"erased": 1}),
        (conflict, {"erased": 1}),
        (lambda n: poison(n, KEY), {"erased": 1}),
        (lambda n: made(n, "thing.broken", KEY), {"erased": 1}),
        (lambda n: Record(n, 0, KEY.encode(), b"{", []), {"erased": 1}),
        (lambda n: Record(n, 0, KEY.encode(), None, []), {"erased": 1}),
    ],
    ids=["event", "repeat", "conflict", "poison", "fault", "undecodable", "tombstone"],
)
def test_a_late_record_of_an_erased_entity_stores_nothing(
    bench: Bench, late: Any, counted: dict[str, int]
) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    bench.log.append(late(1))
    erase_key(bench)
    bench.catch_up()
    bench.catch_up()
    assert outcomes(bench) == {"applied": 1, **counted}
    assert mentions(bench) == []
    assert bench.look("SELECT count(*) FROM sluice.outbox_events") == [(0,)]


def test_dead_letters_are_dropped_and_the_entity_is_unparked(bench: Bench) -> None:
    bench.live(poison(0, KEY), of(KEY, 1), of("bob", 2), poison(3, "bob"))
    sent(bench)
    assert bench.look("SELECT count(*) FROM sluice.parked_entities") == [(2,)]
    found = erase_key(bench)
    assert (found.rows["dead_letters"], found.rows["parked_entities"]) == (2, 1)
    assert outcomes(bench) == {"applied": 1, "dead": 1, "erased": 2}
    stored = "SELECT outcome, count(*) FROM sluice.processed_events GROUP BY 1 ORDER BY 1"
    assert bench.look(stored) == [("applied", 1), ("dead", 1), ("erased", 2)]
    assert mentions(bench) == []
    assert bench.look("SELECT state, error_class = 'EntityErased' FROM sluice.dead_letters ORDER BY id") == [
        ("dropped", True),
        ("dropped", True),
        ("dead", False),
    ]
    bench.redrive(KEY)
    bench.live(of(KEY, 4))
    assert bench.amounts()[KEY] == 4


def test_dead_letters_of_projections_lose_their_contents_and_hold_back_no_event(bench: Bench) -> None:
    too_large = made(0, "thing.set", KEY, event_id=f"{KEY}:0", amount=2_000_000)
    bench.live(too_large)
    bench.live(of(KEY, 1), of("bob", 2))
    letters = "SELECT state, count(*) FROM sluice.projection_letters GROUP BY 1 ORDER BY 1"
    assert bench.look(letters) == [("dead", 1), ("waiting", 1)]
    sent(bench)
    assert erase_key(bench).rows["projection_letters"] == 2
    assert (mentions(bench), bench.look(letters)) == ([], [("dropped", 2)])
    bench.live(of(KEY, 3))
    assert bench.rows() == {"bob": (2, 1), KEY: (3, 1)}


def test_a_stopped_generation_keeps_its_offset(bench: Bench) -> None:
    """If the offset were deleted, a rebuild would read the lane from its beginning."""
    bench.live(of(KEY, 0), of("bob", 1))
    sent(bench)
    bench.look("UPDATE sluice.generations SET state = 'stopped', stopped_at = now()")
    erase_key(bench)
    assert bench.look("SELECT generation, applied_offset FROM sluice.generation_lanes") == [(1, 1)]


def test_a_rebuild_does_not_restore_an_erased_entity(bench: Bench) -> None:
    bench.live(of(KEY, 0), of("bob", 1), poison(2, KEY))
    before = bench.begin()
    bench.rebuild(before)
    sent(bench)
    bench.log.append(of(KEY, 3))
    erase_key(bench)
    bench.catch_up()
    bench.live(of("bob", 4))
    after = bench.begin()
    for number in (before, after):
        assert bench.rebuild(number)
        assert bench.rows(number) == {"bob": (4, 2)}
    assert mentions(bench) == []
    bench.live(of(KEY, 5))
    assert [bench.rows(number)[KEY] for number in (before, after)] == [(5, 1), (5, 1)]


def test_a_rebuild_counts_erased_events(bench: Bench) -> None:
    bench.live(of(KEY, 0), of("bob", 1))
    sent(bench)
    erase_key(bench)
    number = bench.begin()
    assert bench.rebuild(number)
    lanes = f"SELECT folded, passed_erased FROM sluice.generation_lanes WHERE generation = {number}"
    assert bench.look(lanes) == [(1, 1)]


def test_a_generation_from_an_earlier_checkpoint_does_not_restore_an_erased_entity(bench: Bench) -> None:
    bench.look(
        "INSERT INTO sluice.partition_watermarks (topic, partition, epoch, watermark)"
        f" VALUES ('{TOPIC}', 0, 1, 0)"
    )
    bench.live(of(KEY, 0), poison(1, KEY), of("bob", 2))
    kept = bench.checkpoint("kept")
    bench.looking.command("ALTER TABLE things ALTER COLUMN name TYPE varchar(64)")
    bench.with_code(registry(1, mended=True)).redrive(KEY)
    sent(bench)
    erase_key(bench)
    number = bench.begin(checkpoint=kept)
    assert bench.rebuild(number)
    assert (bench.rows(number), mentions(bench)) == ({"bob": (2, 1)}, [])


@pytest.mark.parametrize("repeat_milliseconds", [0, 4_000_000_000_000], ids=["copied", "sent again"])
def test_a_recreated_topic_does_not_restore_an_erased_entity(bench: Bench, repeat_milliseconds: int) -> None:
    """Either a copy kept the timestamps of the records, or the producer sent the records again."""
    bench.live(of(KEY, 0), of("bob", 1))
    sent(bench)
    erase_key(bench)
    bench.look(f"UPDATE sluice.topics SET topic_id = 'recreated' WHERE topic = '{TOPIC}'")
    bench.look("DELETE FROM sluice.lane_offsets")
    again = [of("bob", 0)._replace(offset=0), of(KEY, 0)._replace(offset=1)]
    again = [one._replace(timestamp_ms=repeat_milliseconds) for one in again]
    bench.log[:] = again
    bench.apply(slice_of(again)._replace(topic_id="recreated"))
    number = bench.begin()
    assert bench.rebuild(number)
    assert KEY not in {**bench.rows(), **bench.rows(number)}
    assert mentions(bench) == []


def test_a_deleted_topic_is_erased_up_to_its_applied_offset(bench: Bench) -> None:
    bench.live(of(KEY, 0), of("bob", 1))
    sent(bench)
    erase(bench.looking, bench.registry, lambda _: {}, "thing", KEY, erasing.DECISION)
    assert bench.look("SELECT log_ends FROM sluice.erasures") == [({TOPIC_ID: {"0": 2}},)]
    assert mentions(bench) == []


def test_records_of_another_topic_id_are_erased_if_their_timestamps_are_older(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    erase_key(bench)
    bench.look(f"UPDATE sluice.topics SET topic_id = 'recreated' WHERE topic = '{TOPIC}'")
    bench.look("DELETE FROM sluice.lane_offsets")
    copied, fresh = of(KEY, 7)._replace(offset=0), of(KEY, 8)._replace(offset=1)
    fresh = fresh._replace(timestamp_ms=4_000_000_000_000)
    bench.apply(slice_of([copied, fresh])._replace(topic_id="recreated"))
    assert outcomes(bench) == {"applied": 1, "erased": 1}
    assert bench.amounts() == {KEY: 8}


def test_erase_is_refused_while_outgoing_events_or_calls_are_open(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    with pytest.raises(
        OperationRefused, match=r"1 outgoing event of queue thing.0 is not sent, .* things-out"
    ):
        erase_key(bench)
    bench.look("DELETE FROM sluice.outbox_events")
    for state in ("pending", "running", "uncertain"):
        bench.look(f"UPDATE sluice.executed_side_effects SET state = '{state}'")
        with pytest.raises(OperationRefused, match=rf"2 {state} of effect notify.*nothing was"):
            erase_key(bench)
    assert bench.amounts() == {KEY: 0}
    assert bench.look("SELECT count(*) FROM sluice.erasures") == [(0,)]


@pytest.mark.parametrize(
    ("entity", "key", "said"),
    [
        ("nothing", "k", "no entity type nothing; the declared entity types are: thing"),
        ("thing", "a\0b", "no entity has this key"),
        ("thing", "k" * 256, "no entity has this key"),
        ("thing", "\udc80", "no entity has this key"),
    ],
)
def test_an_entity_or_key_that_no_event_can_have_is_refused(
    bench: Bench, entity: str, key: str, said: str
) -> None:
    with pytest.raises(OperationRefused, match=said):
        erase(bench.looking, bench.registry, lambda _: {}, entity, key, erasing.DECISION)


def test_erase_is_idempotent_and_a_dry_run_changes_nothing(bench: Bench) -> None:
    bench.live(of(KEY, 0), poison(1, KEY))
    sent(bench)
    before = mentions(bench)
    planned = erase_key(bench, dry_run=True)
    assert mentions(bench) == before
    done = erase_key(bench)
    assert (planned.erased, {**planned.rows}) == ("", {**done.rows})
    again = erase_key(bench)
    assert {table: count for table, count in again.rows.items() if count} == {}
    assert again.erased == done.erased
    assert TOPIC_ID in str(bench.look("SELECT log_ends FROM sluice.erasures ORDER BY id DESC LIMIT 1"))


def test_new_records_at_lower_offsets_are_applied_after_a_log_lost_its_end(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    erase_key(bench, until=50)
    lower_log_ends(bench.looking, TOPIC_ID, {0: 1, 7: 3})
    assert bench.look("SELECT log_ends FROM sluice.erasures") == [({TOPIC_ID: {"0": 1}},)]
    bench.live(of(KEY, 1))
    assert bench.amounts() == {KEY: 1}


@pytest.mark.parametrize("first_topic_id", [TOPIC_ID, "older"])
def test_a_repeat_is_judged_by_the_first_position_of_its_event(bench: Bench, first_topic_id: str) -> None:
    """The erasure has stored no log end for the topic of the repeats.

    Therefore the first record of each event decides: only the event from before the erasure is erased.
    """
    bench.live(of(KEY, 0))
    bench.look(f"UPDATE sluice.processed_events SET topic_id = '{first_topic_id}'")
    sent(bench)
    erase_key(bench)
    bench.live(of(KEY, 1))
    later = 4_000_000_000_000
    repeats = [of(KEY, n)._replace(offset=n, timestamp_ms=later) for n in (0, 1)]
    decoded = [decode(bench.registry.topics[TOPIC], "recreated", 0, one) for one in repeats]
    first = [(first_topic_id, 0, 0), (TOPIC_ID, 0, 1)]
    erasures = Erasures(bench.looking)
    erasures.refresh()
    assert erasures.find("thing", list(zip(decoded, first, strict=True))) == {("recreated", 0, 0)}
