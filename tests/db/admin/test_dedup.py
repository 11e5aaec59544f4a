"""The stored mode of a topic is used, and `sluice dedup` changes it together with the epoch."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sluice.admin import dedup as dedup_module
from sluice.admin.decisions import OperationRefused
from sluice.admin.dedup import DedupChange, change_dedup_now, plan_dedup
from sluice.db.admin.rerouting import Unsettled
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.records import DedupMode
from sluice.tasks.redrive import Redriver
from tests.db.tasks import projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, nothing_in_kafka, slice_of
from tests.db.tasks.natural_app import registry
from tests.db.tasks.natural_bench import DECISION, Bench, again, create, put

opened = projecting.opened
STARTS = "SELECT topic_id, partition, first_offset, dedup FROM sluice.dedup_starts ORDER BY 1, 2, 3"


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    """Yields a bench whose code declares natural and whose stored mode is "id"."""
    create(database_url)
    made = Bench(database_url, registry())
    store(made, "id")
    yield made
    made.close()


def store(bench: Bench, mode: str | None) -> None:
    stored = "NULL" if mode is None else f"'{mode}'"
    bench.looking.command(f"UPDATE sluice.topics SET dedup = {stored}; DELETE FROM sluice.dedup_starts")


def settle(bench: Bench) -> None:
    """Raises the watermark above all applied records, as the bridge does."""
    bench.looking.command(
        "UPDATE sluice.partition_watermarks p SET watermark = greatest(p.watermark,"
        " (SELECT max(l.applied_offset) + 1 FROM sluice.lane_offsets l WHERE l.epoch = p.epoch))"
    )


def change(bench: Bench, mode: str) -> DedupChange:
    plan = plan_dedup(bench.session, bench.registry, TOPIC, mode)
    done = change_dedup_now(bench.session, plan, DECISION)
    assert isinstance(done, DedupChange)
    return done


def next_records(bench: Bench, *records: Any) -> None:
    """Applies records in the current epoch, from the watermark on."""
    [(epoch, watermark)] = bench.look("SELECT epoch, watermark FROM sluice.partition_watermarks")
    rows = bench.look(f"SELECT applied_offset FROM sluice.lane_offsets WHERE epoch = {epoch}")
    bench.log += records
    # Before the first record of an epoch, a lane has no row.
    prev = rows[0][0] if rows else -1
    assert records[0].offset >= watermark
    assert bench.apply(slice_of(list(records), prev, epoch=epoch)) is not None


@pytest.mark.parametrize(
    ("stored", "declared", "identities"),
    [
        ("id", "natural", 2),
        ("natural", "id", 0),
        ("natural", "natural", 0),
        (None, "natural", 2),
        (None, "id", 2),
        ("position", "id", 0),
        ("id", "position", 2),
        (None, "position", 2),
    ],
)
def test_the_stored_mode_is_used(
    bench: Bench, opened: Callable[[Any], Any], stored: str | None, declared: str, identities: int
) -> None:
    store(bench, stored)
    deployed = opened(bench.with_code(registry(dedup=declared)))
    deployed.live(put(0, "a", 1), put(1, "b", 2))
    assert len(deployed.identities()) == identities
    assert deployed.outcomes() == {"applied": 2}


def test_a_change_takes_effect_for_running_workers(bench: Bench) -> None:
    bench.live(put(0, "a", 1), put(1, "b", 2))
    settle(bench)
    done = change(bench, "natural")
    assert (done.before, done.dedup, done.epoch, done.starts) == ("id", "natural", 2, {0: 2})
    assert bench.look(STARTS) == [(TOPIC_ID, 0, 2, "natural")]
    assert bench.look("SELECT verb, subject FROM sluice.audit") == [("reshard", TOPIC)]
    stale = bench.apply(slice_of([put(2, "c", 3)], 1))
    assert stale is not None
    assert (dict(stale.outcomes), len(bench.identities())) == ({}, 2)
    next_records(bench, put(2, "c", 3), again(put(0, "a", 1), 3))
    assert len(bench.identities()) == 2
    settle(bench)
    assert change(bench, "id").epoch == 3
    next_records(bench, put(4, "d", 4))
    assert len(bench.identities()) == 3
    assert bench.look(STARTS) == [(TOPIC_ID, 0, 2, "natural"), (TOPIC_ID, 0, 4, "id")]


def test_a_change_is_refused_while_records_are_in_flight(bench: Bench) -> None:
    bench.live(put(0, "a", 1))
    plan = plan_dedup(bench.session, bench.registry, TOPIC, DedupMode.NATURAL)
    found = change_dedup_now(bench.session, plan, DECISION)
    assert isinstance(found, Unsettled)
    assert bench.look("SELECT dedup, epoch FROM sluice.topics, sluice.entities") == [("id", 1)]


def test_a_mutant_that_does_not_raise_the_epoch_is_caught(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup_module, "raise_epoch", lambda *_: 2)
    with pytest.raises(AssertionError):
        test_a_change_takes_effect_for_running_workers(bench)


def test_a_change_is_refused_with_the_reason(bench: Bench, opened: Callable[[Any], Any]) -> None:
    with pytest.raises(OperationRefused, match='has dedup="id" already'):
        plan_dedup(bench.session, bench.registry, TOPIC, DedupMode.ID)
    with pytest.raises(OperationRefused, match="there is no mode 'none'; pass id, position, natural"):
        plan_dedup(bench.session, bench.registry, TOPIC, "none")
    with pytest.raises(OperationRefused, match="by no module; the declared topics are things"):
        plan_dedup(bench.session, bench.registry, "none", DedupMode.ID)
    with pytest.raises(OperationRefused, match=r'dedup="id", so its handlers are not checked'):
        plan_dedup(bench.session, registry(dedup="id"), TOPIC, DedupMode.NATURAL)
    plan = plan_dedup(bench.session, bench.registry, TOPIC, DedupMode.NATURAL)
    store(bench, "position")
    with pytest.raises(OperationRefused, match="was changed meanwhile"):
        change_dedup_now(bench.session, plan, DECISION)
    store(bench, "id")
    opened(bench.with_code(registry(2))).begin()
    with pytest.raises(OperationRefused, match="generation 2 of totals is kept in sync with live"):
        change_dedup_now(bench.session, plan, DECISION)


@pytest.mark.parametrize(
    ("declared", "other"),
    [("id", "natural"), ("natural", "natural"), ("id", "position"), ("position", "position")],
)
def test_a_rebuild_judges_each_record_by_the_mode_at_its_place(
    bench: Bench, opened: Callable[[Any], Any], declared: str, other: str
) -> None:
    # By id: a repeat with the same id, an event that stays dead, and an event from before the first read.
    bench.log.append(put(0, "never", 1))
    bench.live_from_here(
        put(1, "a", 1), again(put(1, "a", 1), 2), put(3, "dead", 1, fails=True), put(4, "b", 2)
    )
    settle(bench)
    change(bench, other)
    next_records(
        bench, put(5, "a", 3), again(put(1, "a", 1), 6), put(7, "gone", 1, fails=True), put(8, "c", 4)
    )
    settle(bench)
    change(bench, "id")
    next_records(bench, put(9, "a", 5, event_id="x"), put(10, "a", 5, event_id="x", version=9))
    live = bench.totals_of(1)
    assert live == {"a": 5, "b": 2, "c": 4}
    code = opened(bench.with_code(registry(2, factor=10, dedup=declared)))
    generation = code.begin()
    while not code.rebuild(generation):
        pass
    assert code.totals_of(generation) == {key: 10 * amount for key, amount in live.items()}


@pytest.mark.parametrize("other", ["natural", "position"])
def test_a_letter_from_before_a_change_is_redriven(
    bench: Bench, opened: Callable[[Any], Any], other: str
) -> None:
    bench.live(put(0, "a", 1, fails=True), put(1, "b", 2))
    settle(bench)
    change(bench, other)
    mended = opened(bench.with_code(registry(mended=True)))
    redriver = Redriver(mended.session, mended.registry, nothing_in_kafka)
    assert redriver.redrive_once("thing", "a").unparked
    # Both identities are from before the change.
    assert bench.look("SELECT outcome FROM sluice.processed_events") == [("applied",), ("applied",)]
    settle(bench)
    next_records(bench, put(2, "c", 1, fails=True))
    settle(bench)
    change(bench, "id")
    assert redriver.redrive_once("thing", "c").unparked
    assert len(bench.identities()) == 3, "under dedup by id, the event gets its identity"


def test_a_topic_of_an_earlier_version_is_changed_to_its_declared_mode(
    bench: Bench, opened: Callable[[Any], Any]
) -> None:
    store(bench, None)
    deployed = opened(bench.with_code(registry(dedup="position")))
    deployed.live(put(0, "a", 1))
    settle(bench)
    done = change(deployed, "position")
    assert (done.before, done.starts) == ("position with identities", {0: 1})
    next_records(deployed, put(1, "b", 1))
    assert len(bench.identities()) == 1
    with pytest.raises(OperationRefused, match='has dedup="position" already'):
        plan_dedup(deployed.session, deployed.registry, TOPIC, DedupMode.POSITION)


def test_an_accept_gives_all_records_the_current_mode(bench: Bench) -> None:
    bench.live(put(0, "a", 1))
    settle(bench)
    change(bench, "natural")
    bench.accept([put(0, "a", 1), put(1, "b", 2)], "id-2")
    assert bench.look(STARTS) == [("id-2", 0, 0, "natural")]


def test_the_first_bridge_stores_the_declared_mode(bench: Bench) -> None:
    for dedup in ("natural", "id"):
        register_topic(bench.session, TopicStart("new", "id-new", "thing", 1, {0: 7}, dedup))
    assert bench.look("SELECT dedup FROM sluice.topics WHERE topic = 'new'") == [("natural",)]
    # A partition that is added later is read from its beginning.
    register_topic(bench.session, TopicStart("new", "id-new", "thing", 1, {0: 9, 1: 9}, "natural"))
    assert bench.look(STARTS) == [("id-new", 0, 7, "natural"), ("id-new", 1, 0, "natural")]
