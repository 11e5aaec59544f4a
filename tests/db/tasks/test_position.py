"""Topics with dedup="position": only the lanes show what was applied, on both paths."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from sluice.admin import accept as accept_module
from sluice.admin.accept import accept_topic
from sluice.admin.continued_lanes import check_starts
from sluice.admin.decisions import OperationRefused
from sluice.admin.reshard import reshard_entity
from sluice.admin.trace import find_place, trace
from sluice.db.admin.rerouting import TopicRouting
from sluice.db.apply import identities
from sluice.db.delivery.progress import read_assignments
from sluice.kafka_io.log_range import LogRange
from sluice.tasks.fold.registry import Registry
from sluice.tasks.redrive import Redriver
from tests.db.admin.rerouting import during_batch
from tests.db.tasks import projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, nothing_in_kafka, slice_of, thing_set
from tests.db.tasks.projecting import DECISION, Bench, create, poison

opened = projecting.opened
ROUTING = TopicRouting(TOPIC_ID, "thing")
COUNTS = "SELECT sum(applied), sum(stale), sum(duplicate), sum(dead), sum(waiting) FROM sluice.lane_offsets"


def code(revision: int = 1, **more: Any) -> Registry:
    found = projecting.registry(revision, **more)
    found.topics[TOPIC] = replace(found.topics[TOPIC], dedup="position")
    return found


@pytest.fixture(params=["auto", "never"])
def bench(
    request: pytest.FixtureRequest, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """Yields a bench, once with the optimistic path and once without."""
    monkeypatch.setenv("SLUICE_OPTIMISTIC", request.param)
    create(database_url)
    made = Bench(database_url, code())
    made.looking.command(
        "UPDATE sluice.topics SET dedup = 'position';"
        f"INSERT INTO sluice.partition_watermarks VALUES ('{TOPIC}', 0, 1, 0);"
        f"INSERT INTO sluice.dedup_starts VALUES ('{TOPIC}', '{TOPIC_ID}', 0, 0, 'position')"
    )
    yield made
    made.close()


def effects(bench: Bench) -> tuple[list[tuple[Any, ...]], ...]:
    """Returns everything that the events wrote, without the identities."""
    return (
        bench.look("SELECT * FROM public.things ORDER BY thing_id"),
        bench.look("SELECT * FROM public.totals ORDER BY thing_id"),
        bench.look("SELECT event_id, key FROM sluice.outbox_events ORDER BY id"),
        bench.look("SELECT effect_key FROM sluice.executed_side_effects ORDER BY id"),
    )


def stored_identities(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.look("SELECT * FROM sluice.processed_events")


def accept(bench: Bench, log: LogRange, given: dict[int, int] | None = None) -> int:
    logs = {0: log}
    check_starts(TOPIC, read_assignments(bench.session, [(TOPIC, 0)]), logs, given or {})
    return accept_topic(bench.session, TOPIC, ROUTING, ROUTING, logs, DECISION, given or {})[1]


def test_no_identity_is_stored_or_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("identities are used")

    for name in ("load_identities", "note_new_identities", "renew_identities"):
        monkeypatch.setattr(identities, name, lambda *_: [] if not _[1] else fail())
    bench.live(thing_set(0, "a"), thing_set(1, "b"), thing_set(2, "a", event_id="e0"))
    bench.live(poison(3, "c"), thing_set(4, "c"), thing_set(5, "a", version=1))
    assert stored_identities(bench) == []
    # A record with a known event id is a new event.
    assert bench.look(COUNTS) == [(3, 1, 0, 1, 1)]


def test_a_slice_that_is_delivered_again_changes_nothing(bench: Bench) -> None:
    records = [thing_set(0, "a"), thing_set(1, "b"), poison(2, "c")]
    bench.apply(slice_of(records))
    before, counts = effects(bench), bench.look(COUNTS)
    for again in (slice_of(records), slice_of(records[1:], 0)):
        bench.apply(again)
    assert (effects(bench), bench.look(COUNTS)) == (before, counts)
    bench.apply(slice_of([*records, thing_set(3, "d")]))
    assert bench.rows() == {"a": (1, 1), "b": (1, 1), "d": (1, 1)}


def test_two_sessions_redrive_dead_and_waiting_events_once(
    bench: Bench, opened: Callable[[Any], Any]
) -> None:
    bench.live(poison(0, "a"), thing_set(1, "a"), thing_set(2, "a"))
    benches = [opened(bench.with_code(code(mended=True))) for _ in range(2)]
    redrivers = [Redriver(one.session, one.registry, nothing_in_kafka) for one in benches]
    done = [one.redrive_once("thing", "a") for one in redrivers]
    assert [dict(one.outcomes) for one in done] == [{"applied": 3}, {}]
    assert bench.rows() == {"a": (1, 3)}
    assert (bench.look(COUNTS), stored_identities(bench)) == ([(3, 0, 0, 0, 0)], [])


def test_a_redrive_with_a_letter_of_an_undecodable_record_stores_no_identity(
    bench: Bench, opened: Callable[[Any], Any]
) -> None:
    unreadable = thing_set(0, "a")._replace(value=b"no JSON")
    bench.live(unreadable, thing_set(1, "b"))
    mended = opened(bench.with_code(code(mended=True)))
    Redriver(mended.session, mended.registry, nothing_in_kafka).redrive_once("thing", "a")
    assert stored_identities(bench) == []


def test_an_accepted_topic_continues_where_reading_stopped(bench: Bench) -> None:
    bench.live(*[thing_set(n, f"k{n % 3}") for n in range(6)])
    before = effects(bench)
    assert accept(bench, LogRange(2, 9)) == 2
    assert bench.look("SELECT epoch, watermark FROM sluice.partition_watermarks") == [(2, 2)]
    assert bench.look("SELECT applied_offset FROM sluice.lane_offsets WHERE epoch = 2") == [(5,)]
    bench.catch_up()
    assert effects(bench) == before
    bench.live(thing_set(6, "k0"))
    assert bench.rows()["k0"] == (1, 3)


def test_a_mutant_that_reads_an_accepted_topic_again_is_caught(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept_module, "may_continue", lambda *_: False)
    with pytest.raises(AssertionError):
        test_an_accepted_topic_continues_where_reading_stopped(bench)


def test_a_batch_that_commits_before_the_accept_is_not_applied_again(bench: Bench, database_url: str) -> None:
    bench.live(thing_set(0), thing_set(1))
    epochs: list[int] = []
    commit = "UPDATE sluice.lane_offsets SET applied_offset = 4 WHERE queue = 'thing.0'"
    with during_batch(bench, database_url, commit, lambda: epochs.append(accept(bench, LogRange(0, 9)))):
        assert epochs == [2]
    assert bench.look("SELECT applied_offset FROM sluice.lane_offsets WHERE epoch = 2") == [(4,)]


def test_a_batch_that_comes_after_the_accept_changes_nothing(bench: Bench) -> None:
    bench.live(thing_set(0), thing_set(1))
    accept(bench, LogRange(0, 9))
    late = bench.apply(slice_of([thing_set(2)], 1))
    assert late is not None
    assert dict(late.judgements) == {"rerouted": 1}
    bench.live(thing_set(2))
    assert bench.rows() == {"k": (1, 3)}


def test_an_accept_of_another_topic_of_the_entity_type_keeps_the_lanes(bench: Bench) -> None:
    bench.live(thing_set(0), thing_set(1))
    bench.looking.command("INSERT INTO sluice.topics VALUES ('other', 'id-2', 'thing', 'id')")
    routings = TopicRouting("id-2", "thing"), TopicRouting("id-3", "thing")
    accept_topic(bench.session, "other", *routings, {0: LogRange(0, 9)}, DECISION)
    before = effects(bench)
    bench.log[:] = [thing_set(0), thing_set(1)]
    bench.apply(slice_of(bench.log, epoch=2))
    assert effects(bench) == before


def test_a_log_that_was_cut_below_a_lane_needs_an_offset(bench: Bench) -> None:
    bench.live(*[thing_set(n) for n in range(4)], poison(4, "x"))
    with pytest.raises(OperationRefused, match=r"ends at 3, below records .* pass --from 0:OFFSET .*\(3 if"):
        accept(bench, LogRange(0, 3))
    with pytest.raises(
        OperationRefused, match=r"--from 0:9 is refused: things\[0\] has the offsets from 0 to 3"
    ):
        accept(bench, LogRange(0, 3), {0: 9})
    with pytest.raises(OperationRefused, match="1 letter of topic things is open at or above the offsets"):
        accept(bench, LogRange(0, 3), {0: 3})
    redriver = Redriver(bench.session, bench.registry, nothing_in_kafka)
    [(letter,)] = bench.look("SELECT id FROM sluice.dead_letters")
    assert redriver.drop("thing", "x", letter)
    redriver.redrive_once("thing", "x")
    accept(bench, LogRange(0, 3), {0: 3})
    assert bench.look("SELECT watermark FROM sluice.partition_watermarks") == [(3,)]
    assert bench.look("SELECT first_offset, dedup FROM sluice.dedup_starts ORDER BY 1") == [
        (0, "position"),
        (3, "position"),
    ]
    # New records at the offsets of lost ones, one of which fails.
    new = [thing_set(3, "new"), poison(4, "new")]
    bench.apply(slice_of(new, epoch=2))
    assert bench.rows()["new"] == (1, 1)
    assert bench.look('SELECT "offset", state FROM sluice.dead_letters') == [(4, "dead")]


def test_an_offset_is_refused_for_a_topic_that_is_read_again(bench: Bench) -> None:
    for to, mode in ((TopicRouting("id-new", "thing"), "position"), (ROUTING, "id")):
        bench.looking.command(f"UPDATE sluice.topics SET dedup = '{mode}'")
        with pytest.raises(OperationRefused, match="--from is valid only for a topic"):
            accept_topic(bench.session, TOPIC, ROUTING, to, {0: LogRange(0, 9)}, DECISION, {0: 3})


def test_a_forced_re_routing_is_refused(bench: Bench) -> None:
    bench.live(thing_set(0))
    with pytest.raises(OperationRefused, match=r"records in flight of topic things .* applied a second time"):
        reshard_entity(bench.session, "thing", 2, DECISION, force=True)
    assert bench.look("SELECT epoch FROM sluice.entities") == [(1,)]


def test_a_rebuild_folds_every_record_from_where_reading_began(
    bench: Bench, opened: Callable[[Any], Any]
) -> None:
    bench.looking.command("UPDATE sluice.dedup_starts SET first_offset = 2")
    bench.log += [thing_set(0, "never"), thing_set(1, "never")]
    bench.live_from_here(
        thing_set(2, "a"), thing_set(3, "a", event_id="e2"), poison(4, "b"), thing_set(5, "b")
    )
    bench.live(poison(6, "c"), thing_set(7, "d"))
    redriver = Redriver(bench.session, bench.registry, nothing_in_kafka)
    [(letter,)] = bench.look('SELECT id FROM sluice.dead_letters WHERE "offset" = 6')
    redriver.drop("thing", "c", letter)
    redriver.redrive_once("thing", "c")
    corrected = opened(bench.with_code(code(2, factor=10, mended=True)))
    generation = corrected.begin()
    while not corrected.rebuild(generation):
        pass
    assert corrected.rows(generation) == {"a": (10, 2), "d": (10, 1)}
    corrected.redrive("b")
    assert corrected.rows(generation) == {"a": (10, 2), "d": (10, 1), "b": (10, 2)}
    assert stored_identities(bench) == []


def test_an_event_is_not_found_by_its_id(bench: Bench) -> None:
    bench.live(thing_set(0), poison(1, "b"))
    with pytest.raises(OperationRefused, match=r'dedup="position", so Postgres has no outcomes'):
        find_place(bench.looking, bench.registry, TOPIC, "a", "e0", None)
    topic = bench.registry.topics[TOPIC]
    found = [trace(bench.looking, bench.registry, topic, TOPIC_ID, 0, record) for record in bench.log]
    assert [one.outcome for one in found] == [None, "dead"]
    bench.looking.command("DELETE FROM sluice.outbox_events")
    again = trace(bench.looking, bench.registry, topic, TOPIC_ID, 0, bench.log[0])
    assert [one["state"] for one in again.emitted] == ["sent, if the event was applied"]


def test_a_topic_of_an_earlier_version_keeps_its_identities(bench: Bench) -> None:
    bench.looking.command("UPDATE sluice.topics SET dedup = NULL; DELETE FROM sluice.dedup_starts")
    bench.live(thing_set(0), thing_set(1, event_id="e0"))
    assert len(stored_identities(bench)) == 2
    assert bench.look(COUNTS) == [(2, 0, 0, 0, 0)]
