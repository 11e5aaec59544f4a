"""The records in flight of a bridge: watermarks, pauses, and decisions to start a partition."""

import pytest

from sluice.bridge.inflight import REMEMBERED_KEY_BYTES
from sluice.bridge.partitioner import SUSPICIOUS_SAMPLES, PartitionerCheck, expected_partition
from sluice.bridge.start_conditions import LoudStop, NeedsRows, Start, judge_assignment
from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import size_bytes
from sluice.runtime.place import Place
from sluice.tasks.events.routing import shard_of
from tests.unit.bridge.bridging import EMPTY, PLACE, assignment, claims, holding, record


def test_records_at_or_below_the_applied_offset_are_not_sent() -> None:
    inflight = holding({PLACE: assignment(watermark=3, e0=5)})
    inflight.take(PLACE, [record(n) for n in range(3, 8)], 0.0)
    assert claims(inflight.queues["e.0"].cut()) == [(0, 5, 7)]


def test_records_of_a_partition_that_is_not_started_are_discarded() -> None:
    inflight = holding({})
    inflight.take(PLACE, [record(7)], 0.0)
    assert not inflight.queues
    inflight.start(PLACE, assignment(), 0)
    inflight.take(PLACE, [record(7)], 0.0)
    inflight.forget(PLACE)
    assert not inflight.queues["e.0"].is_due(9.0, EMPTY)


def test_the_watermark_is_the_lowest_unapplied_offset_or_the_position() -> None:
    inflight = holding({PLACE: assignment(shards=2)})
    keys = {shard: key for key in (b"%d" % n for n in range(20)) for shard in [shard_of(key, 2)]}
    inflight.take(PLACE, [record(0, key=keys[0]), record(2, key=keys[1]), record(4, key=keys[0])], 0.0)
    assert inflight.watermarks() == {}
    for applied, watermark in [({"e0": 0}, 2), ({"e0": 4}, 2), ({"e0": 4, "e1": 2}, 5)]:
        inflight.settle({PLACE: assignment(shards=2, **applied)}, 0.0)
        assert inflight.watermarks() == {PLACE: (1, watermark)}
    inflight.note_position(PLACE, 9)
    inflight.note_position(PLACE, 7)
    assert inflight.watermarks() == {PLACE: (1, 9)}
    assert inflight.partitions[PLACE].held_bytes == 0


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (None, "the rows of the partition were deleted"),
        (assignment(watermark=4, e0=6), "the applied offset of a lane in Postgres decreased"),
        (assignment(watermark=4), "the applied offset of a lane in Postgres decreased"),
        (assignment(watermark=3, e0=7), "the watermark in Postgres decreased"),
        (assignment(watermark=4, epoch=2), "the entity type of the topic was re-routed"),
        (assignment(watermark=4, shards=2, e0=7), "the entity type of the topic was re-routed"),
        (Assignment("id-2", "e", 1, 1, 1, 4, {"e.0": 7}), "the topic has another id"),
        (assignment(watermark=4, e0=7), None),
        (assignment(watermark=5, e0=8, e1=1), None),
    ],
)
def test_a_partition_whose_state_in_postgres_was_moved_back_or_replaced_is_lost(
    read: Assignment | None, reason: str | None
) -> None:
    inflight = holding({PLACE: assignment(watermark=4, e0=7)})
    lost, _ = inflight.settle({} if read is None else {PLACE: read}, 0.0)
    assert lost == ({PLACE: reason} if reason else {})


@pytest.mark.parametrize(
    ("log", "read", "verdict"),
    [
        (LogRange(0, 10), None, NeedsRows),
        (LogRange(0, 10), Assignment("id", "e", 1, 1, None, None), NeedsRows),
        (LogRange(0, 10), assignment(watermark=4, e0=7), Start),
        (LogRange(4, 8), assignment(watermark=4, e0=7), Start),
        (LogRange(4, 4), assignment(watermark=4), Start),
        (LogRange(5, 10), assignment(watermark=4), LoudStop),
        (LogRange(0, 3), assignment(watermark=4), LoudStop),
        (LogRange(0, 7), assignment(watermark=4, e0=7), LoudStop),
        (LogRange(0, 10), Assignment("id-2", "e", 1, 1, 1, 4), LoudStop),
        (LogRange(0, 10), Assignment("id-2", "e", 1, 1, None, None), LoudStop),
        (LogRange(0, 10), Assignment("id", "e", 2, 1, 1, 4), LoudStop),
    ],
)
def test_the_rows_and_the_log_of_a_partition_decide_if_a_bridge_starts_it(
    log: LogRange, read: Assignment | None, verdict: type
) -> None:
    found = judge_assignment("t", 0, read, topic_id="id", log=log)
    assert type(found) is verdict
    if isinstance(found, LoudStop):
        assert found.message.startswith(("Topic t ", "t[0]"))


@pytest.mark.parametrize("bound", ["bytes", "span"])
def test_a_partition_above_its_share_is_paused_until_it_uses_half_of_its_share(bound: str) -> None:
    places: list[Place] = [("t", 0), ("t", 1)]
    limit = 2 * 100 * (size_bytes(record(0)) if bound == "bytes" else 1)
    inflight = holding(
        {place: assignment() for place in places},
        **({"max_bytes": limit} if bound == "bytes" else {"max_span": limit}),
    )

    def over(paused: set[Place]) -> set[Place]:
        return set(inflight.over_bounds(frozenset(paused)))

    inflight.take(places[0], [record(n) for n in range(100)], 0.0)
    assert over(set()) == set()
    inflight.take(places[0], [record(100)], 0.0)
    assert over(set()) == {places[0]}
    for applied, paused in [(49, {places[0]}), (50, set())]:
        inflight.settle({place: assignment() for place in places} | {places[0]: assignment(e0=applied)}, 0.0)
        assert over({places[0]}) == paused
    # After `forget`, as in a rebalance, this partition has the whole bound.
    inflight.take(places[0], [record(n) for n in range(101, 200)], 0.0)
    assert over(set()) == {places[0]}
    inflight.forget(places[1])
    assert over(set()) == set()


def test_each_halt_is_reported_one_time() -> None:
    inflight = holding({PLACE: assignment()})
    inflight.take(PLACE, [record(0)], 0.0)
    halted = frozenset({"e.0", "another.0"})
    assert inflight.note_halted(halted) == (["e.0"], [])
    assert inflight.note_halted(halted) == ([], [])
    assert inflight.note_halted(frozenset()) == ([], ["e.0"])


def test_a_foreign_partitioner_is_reported_one_time_per_topic() -> None:
    check, key = PartitionerCheck(), b"key"
    right = expected_partition(key, 4)
    assert not any(check.sample(("t", right), record(n, key=key), 4) for n in range(100))
    wrong = [check.sample(("t", (right + 1) % 4), record(n, key=key), 4) for n in range(100)]
    assert [n for n, is_reported in enumerate(wrong) if is_reported] == [SUSPICIOUS_SAMPLES - 1]


def test_large_keys_are_not_cached_and_not_used_to_check_the_partitioner() -> None:
    inflight, check = holding({PLACE: assignment(shards=2)}), PartitionerCheck()
    keys = [b"%d" % n + bytes(REMEMBERED_KEY_BYTES) for n in range(SUSPICIOUS_SAMPLES + 1)]
    elsewhere = [key for key in keys if expected_partition(key, 1_000) != 0]
    assert len(elsewhere) >= SUSPICIOUS_SAMPLES
    assert not any(check.sample(PLACE, record(0, key=key), 1_000) for key in elsewhere)
    inflight.take(PLACE, [record(n, key=key) for n, key in enumerate(keys)], 0.0)
    inflight.take(PLACE, [record(len(keys), key=b"small")], 0.0)
    assert inflight.partitions[PLACE]._by_key.keys() == {b"small"}
