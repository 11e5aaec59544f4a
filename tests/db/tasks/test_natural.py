"""Topics with dedup="natural": versions alone make repeats harmless, on both paths, in every interleaving."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.trace import find_place, trace
from sluice.db.apply import identities
from sluice.tasks.api import Entity, Topic
from sluice.tasks.apply import fold_io
from sluice.tasks.redrive import Redriver
from tests.db.tasks import projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, nothing_in_kafka
from tests.db.tasks.natural_app import registry
from tests.db.tasks.natural_bench import Bench, again, create, deleted, named, put
from tests.db.tasks.projecting import PLACE

opened = projecting.opened


@pytest.fixture(params=["auto", "never"])
def bench(
    request: pytest.FixtureRequest, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """Yields a bench, once with the optimistic path and once without."""
    monkeypatch.setenv("SLUICE_OPTIMISTIC", request.param)
    create(database_url)
    made = Bench(database_url, registry())
    yield made
    made.close()


STREAM = [
    put(0, "a", 1, version=10),
    put(1, "b", 2, version=10),
    named(2, "a", "x", 12),
    put(3, "a", 3, version=11),  # a late event: the name of version 12 stays
    put(4, "b", 4, version=5),  # stale
    deleted(5, "c", 7),
    put(6, "c", 5, version=7),  # equal to the Delete, which wins
    put(7, "d", 6, version=7),
    deleted(8, "d", 7),
    put(9, "d", 7, version=6),  # older than the tombstone
    put(10, "e", 8, version=3),
]


def test_no_identity_is_stored_or_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("identities are used")

    for name in ("load_identities", "note_new_identities", "renew_identities"):
        monkeypatch.setattr(identities, name, lambda *_: [] if not _[1] else fail())
    bench.live(*STREAM)
    bench.live(again(STREAM[0], 20), put(21, "z", 1, fails=True), put(22, "z"))
    assert bench.identities() == []
    assert bench.outcomes() == {"applied": 9, "stale": 3, "dead": 1, "waiting": 1}


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_repeats_change_nothing_in_the_same_batch_and_later(bench: Bench, batch: int) -> None:
    bench.live(*STREAM)
    state = bench.state()
    repeats = [again(record, 100 + n) for n, record in enumerate(STREAM)]
    for first in range(0, len(repeats), batch):
        bench.live(*repeats[first : first + batch])
    bench.live(*[again(record, 200 + n) for n, record in enumerate(reversed(STREAM))])
    assert bench.state() == state
    assert bench.letters() == []
    assert bench.outcomes()["applied"] == 9


def test_a_repeat_in_the_same_batch_changes_nothing(bench: Bench) -> None:
    bench.live(put(0, "a", 1), again(put(0, "a", 1), 1), put(2, "a", 2), again(put(0, "a", 1), 3))
    assert bench.outcomes() == {"applied": 2, "duplicate": 1, "stale": 1}
    assert bench.look("SELECT thing_id, amount FROM public.things") == [("a", 2)]


def test_an_equal_version_with_other_content_is_a_conflict_each_time(bench: Bench) -> None:
    other = put(1, "a", 2, version=0)
    bench.live(put(0, "a", 1), other, again(other, 2))
    assert bench.letters() == [(1, "conflict", "dead"), (2, "conflict", "dead")]
    assert bench.look("SELECT amount FROM public.things") == [(1,)]


def test_records_read_again_after_a_forced_re_routing_change_nothing_and_are_counted_again(
    bench: Bench,
) -> None:
    stream = [*STREAM, put(11, "f", 1, fails=True), put(12, "f", 2), put(13, "b", 9, version=10)]
    bench.live(*stream)
    state, letters, before = bench.state(), bench.letters(), bench.outcomes()
    assert letters == [(11, "dead", "dead"), (12, "waiting", "waiting"), (13, "conflict", "dead")]
    bench.reroute()
    bench.catch_up()
    assert (bench.state(), bench.letters(), bench.identities()) == (state, letters, [])
    rows = bench.look(
        "SELECT sum(dead), sum(waiting), sum(conflict), sum(applied + stale + duplicate)"
        " FROM sluice.lane_offsets"
    )
    counted = sum(before.get(name, 0) for name in ("applied", "stale", "duplicate"))
    # Letters are counted one time. Other records are counted again.
    assert rows == [(1, 1, 1, 2 * counted)]


def test_a_dropped_event_stays_dropped_when_its_record_is_read_again(
    bench: Bench, database_url: str, opened: Callable[[Any], Any]
) -> None:
    bench.live(put(0, "a", 1, fails=True), put(1, "b", 2))
    redriver = Redriver(bench.session, bench.registry, nothing_in_kafka)
    [(letter,)] = bench.look("SELECT id FROM sluice.dead_letters")
    assert redriver.drop("thing", "a", letter)
    redriver.redrive_once("thing", "a")
    mended = opened(bench.with_code(registry(mended=True)))
    mended.reroute()
    mended.catch_up()
    assert mended.look("SELECT thing_id FROM public.things") == [("b",)]
    assert mended.letters() == [(0, "dead", "dropped")]


def test_a_letter_redriven_after_newer_events_is_stale(bench: Bench, opened: Callable[[Any], Any]) -> None:
    bench.registry.topics[TOPIC] = Topic(TOPIC, entity=Entity("thing", 1), dedup="natural", on_failure="skip")
    bench.live(put(0, "a", 1, fails=True), put(1, "a", 2), deleted(2, "a", 3))
    state = bench.state()
    mended = opened(bench.with_code(registry(mended=True)))
    redriven = Redriver(mended.session, mended.registry, nothing_in_kafka).redrive_once("thing", "a")
    assert redriven.outcomes == {"stale": 1}
    assert bench.state()[:2] == state[:2]
    assert (bench.letters(), bench.identities()) == ([(0, "dead", "done")], [])
    assert bench.outcomes() == {"applied": 2, "stale": 1}


def test_a_redrive_applies_waiting_events_in_order(bench: Bench, opened: Callable[[Any], Any]) -> None:
    bench.live(put(0, "a", 1, fails=True), put(1, "a", 2), put(2, "a", 3))
    mended = opened(bench.with_code(registry(mended=True)))
    redriver = Redriver(mended.session, mended.registry, nothing_in_kafka)
    assert redriver.redrive_once("thing", "a").unparked
    assert bench.outcomes() == {"applied": 3}
    assert bench.look("SELECT amount FROM public.things") == [(3,)]
    assert bench.identities() == []


def test_a_rebuild_folds_every_record_that_is_not_dead_waiting_or_dropped(
    bench: Bench, opened: Callable[[Any], Any]
) -> None:
    bench.live(*STREAM, *[again(record, 100 + n) for n, record in enumerate(STREAM)])
    bench.live(put(200, "f", 1, fails=True), put(201, "f", 2), put(202, "g", 1, fails=True))
    redriver = Redriver(bench.session, bench.registry, nothing_in_kafka)
    [(letter,)] = bench.look('SELECT id FROM sluice.dead_letters WHERE "offset" = 202')
    redriver.drop("thing", "g", letter)
    redriver.redrive_once("thing", "g")
    bench.live(put(203, "g", 5))
    corrected = opened(bench.with_code(registry(2, factor=10, mended=True)))
    generation = corrected.begin()
    while not corrected.rebuild(generation):
        pass
    live = corrected.totals_of(1)
    assert live == {"a": 3, "b": 2, "e": 8, "g": 5}
    assert corrected.totals_of(generation) == {key: 10 * amount for key, amount in live.items()}
    # A redrive writes the generation, which has passed the records.
    Redriver(corrected.session, corrected.registry, nothing_in_kafka).redrive_once("thing", "f")
    assert corrected.totals_of(generation)["f"] == 20
    corrected.live(again(put(201, "f", 2), 300), put(301, "a", 9, version=20))
    assert corrected.totals_of(generation) == {"a": 90, "b": 20, "e": 80, "g": 50, "f": 20}
    assert corrected.look("SELECT * FROM sluice.processed_events") == []


def test_a_rebuild_does_not_fold_records_from_before_the_start(
    bench: Bench, opened: Callable[[Any], Any]
) -> None:
    bench.look("UPDATE sluice.dedup_starts SET first_offset = 2")
    bench.log += [put(0, "a", 1), put(1, "b", 2)]
    bench.live_from_here(put(2, "a", 3))
    corrected = opened(bench.with_code(registry(2)))
    generation = corrected.begin()
    assert corrected.rebuild(generation, place=PLACE)
    assert corrected.totals_of(generation) == {"a": 3}


def test_an_event_is_not_found_by_its_id(bench: Bench) -> None:
    bench.live(put(0, "a", 1), put(1, "b", 1, fails=True))
    with pytest.raises(OperationRefused, match="no outcomes of its events by their ids: pass the record as"):
        find_place(bench.looking, bench.registry, TOPIC, "a", "e0", None)
    topic = bench.registry.topics[TOPIC]
    found = [trace(bench.looking, bench.registry, topic, TOPIC_ID, 0, record) for record in bench.log]
    assert [(one.outcome, one.letter and one.letter.outcome) for one in found] == [
        (None, None),
        ("dead", "dead"),
    ]


def test_a_mutant_that_does_not_read_letters_is_caught(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from sluice.tasks.apply import optimistic_writer

    for module in (fold_io, optimistic_writer):
        monkeypatch.setattr(module, "load_known_places", lambda *_: {})
    with pytest.raises(AssertionError):
        test_records_read_again_after_a_forced_re_routing_change_nothing_and_are_counted_again(bench)
