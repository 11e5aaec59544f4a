"""Erasures stay effective after a new installation, a failover, a recreated topic and a redrive."""

from collections.abc import Sequence

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.erase import erase
from sluice.admin.erased_logs import LogEnds
from sluice.admin.erased_texts import erase_settled_calls
from sluice.admin.installation import add_key, make_new_installation, note_move
from sluice.admin.letters import require_letter
from sluice.admin.redrive import require_redrivable
from sluice.db.apply.handler_deaths import note_death
from sluice.db.delivery.installation import create_installation
from sluice.db.projections.generation_deaths import deaths_queue
from sluice.runtime.place import EventPlace
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.events.decode import decode
from tests.db.admin import erasing
from tests.db.admin.erasing import DECISION, KEY, erase_key, mentions, of, registry, sent
from tests.db.tasks.applying import TOPIC, TOPIC_ID, made, slice_of
from tests.db.tasks.projecting import PLACE, Bench, poison

bench = erasing.bench
LATER = 4_000_000_000_000


def test_changes_of_the_installation_keep_the_hash_key_of_erasures(bench: Bench) -> None:
    create_installation(bench.looking, "sluice")
    bench.live(of(KEY, 0))
    sent(bench)
    bench.log.append(of(KEY, 1))
    before = erase_key(bench).erased
    stored = bench.look("SELECT key FROM sluice.erasure_key")
    add_key(bench.looking, "sluice", DECISION._replace(verb="init new-key"))
    make_new_installation(bench.looking, "staging", DECISION._replace(verb="init new-installation"))
    bench.look("UPDATE sluice.installation SET database_oid = database_oid + 1")
    assert note_move(bench.looking, "staging", DECISION._replace(verb="init moved")).changed
    assert bench.look("SELECT key FROM sluice.erasure_key") == stored
    restarted = bench.with_code(registry())
    restarted.catch_up()
    restarted.close()
    assert bench.look("SELECT erased FROM sluice.lane_offsets") == [(1,)]
    assert erase_key(bench).erased == before
    assert bench.amounts() == {}


def test_a_conflict_in_a_recreated_topic_makes_no_dead_letter(bench: Bench) -> None:
    """The erasure has no log end for the new topic, and the record is newer than the erasure."""
    bench.live(of(KEY, 0))
    sent(bench)
    erase_key(bench)
    bench.look(f"UPDATE sluice.topics SET topic_id = 'recreated' WHERE topic = '{TOPIC}'")
    bench.look("DELETE FROM sluice.lane_offsets")
    again = made(0, "thing.set", KEY, event_id=f"{KEY}:0", amount=99)._replace(timestamp_ms=LATER)
    bench.apply(slice_of([again])._replace(topic_id="recreated"))
    assert bench.look("SELECT erased, conflict FROM sluice.lane_offsets") == [(1, 0)]
    assert mentions(bench) == []


def test_a_process_detects_that_a_failover_lost_erasures(bench: Bench) -> None:
    """After the failover, Postgres gives the id of the lost erasure to a new erasure."""
    bench.live(of(KEY, 0), of("bob", 1), of("cid", 2))
    sent(bench)
    for key in (KEY, "bob"):
        erase_key(bench, key)
    erasures = Erasures(bench.looking)
    erasures.refresh()
    bench.look("DELETE FROM sluice.erasures WHERE id = 2")
    bench.look("ALTER SEQUENCE sluice.erasures_id_seq RESTART WITH 2")
    erase_key(bench, "cid")
    bench.looking.close()
    erasures.refresh()
    decoded = [decode(bench.registry.topics[TOPIC], TOPIC_ID, 0, one) for one in bench.log]
    found = erasures.find("thing", [(one, None) for one in decoded])
    assert found == {(TOPIC_ID, 0, 0), (TOPIC_ID, 0, 2)}


def test_the_dead_letter_of_an_erased_entity_is_not_redriven_by_id(bench: Bench) -> None:
    bench.live(poison(0, KEY))
    erase_key(bench)
    [(number,)] = bench.look("SELECT id FROM sluice.dead_letters")
    letter = require_letter(bench.looking, number)
    with pytest.raises(OperationRefused, match=f"^{number} was erased with its entity"):
        require_redrivable(letter)
    assert letter.is_cut, "an export must not write the letter as a tombstone"


def test_erase_is_refused_if_a_batch_adds_an_outgoing_event_while_log_ends_are_read(bench: Bench) -> None:
    """The erasure finds the outgoing event because it reads again after it has locked the queue."""
    bench.live(of(KEY, 0))
    sent(bench)

    def read_ends(topics: Sequence[str]) -> LogEnds:
        bench.live(of(KEY, 1))
        return {TOPIC: (TOPIC_ID, {0: 2})}

    with pytest.raises(OperationRefused, match=r"1 outgoing event of queue thing\.0 is not sent"):
        erase(bench.looking, bench.registry, read_ends, "thing", KEY, DECISION, patience_seconds=0.0)
    assert bench.amounts() == {KEY: 1}


def test_erase_is_refused_for_an_outgoing_event_of_another_shard(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    bench.live(of(KEY, 1))
    bench.look("INSERT INTO sluice.queues (queue, entity) VALUES ('thing.1', 'thing')")
    bench.look("UPDATE sluice.outbox_events SET queue = 'thing.1'")
    with pytest.raises(OperationRefused, match=r"1 outgoing event of queue thing\.1 is not sent"):
        erase_key(bench)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "UPDATE sluice.entities SET epoch = epoch + 1",
            "entity type thing was re-routed during the erasure",
        ),
        (
            "INSERT INTO sluice.topics (topic, topic_id, entity) VALUES ('more', 'id', 'thing')",
            "a bridge began to read topic more during the erasure",
        ),
    ],
    ids=["routing", "topic"],
)
def test_erase_must_be_retried_if_routing_changes_while_log_ends_are_read(
    bench: Bench, change: str, said: str
) -> None:
    bench.live(of(KEY, 0))
    sent(bench)

    def read_ends(topics: Sequence[str]) -> LogEnds:
        if change:
            bench.look(change)
        return {TOPIC: (TOPIC_ID, {0: 1})}

    with pytest.raises(OperationRefused, match=f"{said}: nothing was changed. Try again"):
        erase(bench.looking, bench.registry, read_ends, "thing", KEY, DECISION, patience_seconds=0.0)
    change = ""
    assert erase(bench.looking, bench.registry, read_ends, "thing", KEY, DECISION).rows["things"] == 1


def test_a_table_left_by_a_killed_rebuild_start_is_searched(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    number = bench.begin()
    bench.rebuild(number)
    sent(bench)
    bench.look("DELETE FROM sluice.generation_lanes; DELETE FROM sluice.generations WHERE state <> 'live'")
    assert erase_key(bench).rows[f"totals_g{number}"] == 1
    assert mentions(bench) == []


def test_calls_made_after_the_erasure_are_kept(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    [(earlier,)] = bench.look("SELECT min(created_at) FROM sluice.executed_side_effects")
    bench.look("UPDATE sluice.executed_side_effects SET created_at = created_at + interval '1 s'")
    calls = "SELECT effect_key FROM sluice.executed_side_effects ORDER BY 1"
    before = bench.look(calls)
    assert erase_settled_calls(bench.looking, bytes(32), "thing", KEY, earlier, dry_run=False) == 0
    assert bench.look(calls) == before


def test_a_repeat_of_an_erased_event_does_not_lengthen_the_retention_of_the_event(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    bench.log.append(of(KEY, 0)._replace(offset=1))
    erase_key(bench)
    bench.look("UPDATE sluice.processed_events SET processed_at = now() - interval '90 days'")
    age = bench.look("SELECT processed_at FROM sluice.processed_events")
    bench.catch_up()
    assert bench.look("SELECT erased FROM sluice.lane_offsets") == [(1,)]
    assert bench.look("SELECT processed_at FROM sluice.processed_events") == age


def test_tombstones_of_the_erased_entity_are_deleted(bench: Bench) -> None:
    kinds = [("mood.set", KEY), ("mood.gone", KEY), ("mood.set", "bob"), ("mood.gone", "bob")]
    bench.live(*(made(n, kind, key, event_id=f"{key}:{n}") for n, (kind, key) in enumerate(kinds)))
    tombstones = "SELECT key FROM sluice.tombstones ORDER BY 1"
    assert bench.look(tombstones) == [(KEY,), ("bob",)]
    assert erase_key(bench).rows["tombstones"] == 1
    assert bench.look(tombstones) == [("bob",)]


def test_a_rebuild_deletes_the_counts_of_processes_that_an_erased_event_ended(bench: Bench) -> None:
    bench.live(of("bob", 0), of(KEY, 1))
    sent(bench)
    erase_key(bench)
    number = bench.begin()
    queue = deaths_queue("totals", number, PLACE)
    for _ in range(3):
        place = EventPlace(TOPIC, TOPIC_ID, 0, 1)
        note_death(bench.looking, queue, place, timed_out=False, how="signal SIGSEGV")
    assert bench.rebuild(number)
    assert bench.rows(number) == {"bob": (0, 1)}
    assert bench.look("SELECT count(*) FROM sluice.handler_deaths") == [(0,)]


def test_the_retries_of_the_entity_and_its_deaths_in_generations_are_deleted(bench: Bench) -> None:
    bench.live(poison(0, KEY), poison(1, "bob"))
    bench.look(
        "INSERT INTO sluice.retries (letter_id, queue, entity, key, kind, retry_at)"
        " SELECT id, queue, entity, entity_key, 'timed_out', now() FROM sluice.dead_letters"
    )
    bench.look(
        'INSERT INTO sluice.generation_deaths (projection, generation, topic, partition, "offset", key,'
        " error_class, error_text)"
        " SELECT 'totals', 1, topic, partition, \"offset\", entity_key, 'X', 'y' FROM sluice.dead_letters"
    )
    found = erase_key(bench)
    assert (found.rows["retries"], found.rows["generation_deaths"]) == (1, 1)
    assert bench.look("SELECT key FROM sluice.retries") == [("bob",)]
    assert bench.look("SELECT key FROM sluice.generation_deaths") == [("bob",)]
