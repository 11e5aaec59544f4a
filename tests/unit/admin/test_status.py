"""The numbers that `sluice status` computes, even if a service does not answer."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from sluice.admin.status import Reading, TopicStatus, judge_status, unapplied
from sluice.cli.status import queue_table, say_what_waits, topic_table
from sluice.cli.tables import table_lines
from sluice.db.admin.totals import ProgressRead, QueueState
from sluice.db.apply.guard import COUNTERS
from sluice.db.delivery.leases import Lease, Sharing, Worker
from sluice.db.delivery.undeclared import Undeclared
from sluice.db.delivery.unread_partitions import UnreadKind, UnreadPartition
from sluice.db.records import Declaration
from sluice.kafka_io.log_range import LogRange, LogRanges

HALTED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PROGRESS = ProgressRead(
    topics=frozenset({"orders", "users"}),
    watermarks={("orders", 0): 90, ("orders", 1): 50},
    queues={
        "order.0": QueueState("order"),
        "order.1": QueueState("order", "no table orders", HALTED_AT),
        "user.0": QueueState("user"),
    },
    counters={
        ("orders", "order.0"): dict.fromkeys(COUNTERS, 0) | {"applied": 80, "stale": 2},
        ("orders", "order.1"): dict.fromkeys(COUNTERS, 0) | {"applied": 57, "dead": 1},
        ("commands", "order.1"): dict.fromkeys(COUNTERS, 0) | {"applied": 5, "call_conflict": 3},
    },
)


WORKER = Worker(71, "one@host", 1, HALTED_AT, HALTED_AT, {}, None, None, None, None, None, None)
SHARING = Sharing(
    HALTED_AT,
    (Lease("order.0", False, 71), Lease("order.1", False, None), Lease("user.0", True, None)),
    (WORKER,),
)


def reading() -> Reading:
    return Reading(
        declared_topics={"orders": "earliest", "users": "earliest"},
        declared_queues={"order.0": "order", "order.1": "order", "user.0": "user"},
        progress=PROGRESS,
        logs=LogRanges(
            {("orders", 0): LogRange(10, 100), ("orders", 1): LogRange(0, 50), ("users", 0): LogRange(0, 0)},
            {"orders": "id-1", "users": "id-2"},
        ),
        oldest_at={("orders", 0): 1_000.0},
        lengths={"order.0": 2, "order.1": 0, "user.0": 0},
        sharing=SHARING,
    )


def topic(of: Reading, name: str = "orders", now: float = 1_007.5) -> TopicStatus:
    [found] = [one for one in judge_status(of, now=now).topics if one.topic == name]
    return found


def test_a_topic_is_the_sum_of_its_partitions() -> None:
    orders = topic(reading())
    assert (orders.log_end, orders.watermark, orders.lag) == (150, 140, 10)
    assert orders.oldest_unapplied_seconds == 7.5
    assert [(part.partition, part.lag) for part in orders.partitions] == [(0, 10), (1, 0)]
    assert orders.counters is not None
    assert {k: v for k, v in orders.counters.items() if v} == {"applied": 137, "stale": 2, "dead": 1}
    assert tuple(orders.counters) == COUNTERS


def test_a_queue_sums_the_topics_of_its_entity_type() -> None:
    queues = {queue.queue: queue for queue in judge_status(reading(), now=0).queues}
    assert set(queues) == {"order.0", "order.1", "user.0"}
    halted = queues["order.1"]
    assert (halted.halted_reason, halted.halted_at) == ("no table orders", "2026-01-02T03:04:05+00:00")
    assert halted.counters is not None
    assert (halted.counters["applied"], halted.counters["call_conflict"]) == (62, 3)
    assert (queues["order.0"].length, queues["order.0"].halted_reason) == (2, None)


@pytest.mark.parametrize(
    ("watermark", "log", "lag", "look_at"),
    [
        (90, LogRange(0, 100), 10, 90),
        (100, LogRange(0, 100), 0, None),
        (101, LogRange(0, 100), 0, None),  # the log was truncated, but the lag is never negative
        (
            5,
            LogRange(20, 100),
            95,
            20,
        ),  # the records below 20 were deleted
        (0, LogRange(0, 0), 0, None),
    ],
)
def test_lag_is_the_number_of_records_between_the_watermark_and_the_end(
    watermark: int, log: LogRange, lag: int, look_at: int | None
) -> None:
    of = replace(reading(), progress=replace(PROGRESS, watermarks={("orders", 0): watermark}))
    of.logs = LogRanges({("orders", 0): log})
    assert topic(of).lag == lag
    assert unapplied(of) == ({} if look_at is None else {("orders", 0): look_at})


@pytest.mark.parametrize(
    ("start", "known", "lag"),
    [("earliest", False, 40), ("latest", False, 0), ("latest", True, 40), ("earliest", True, 40)],
)
def test_the_lag_of_a_partition_that_is_not_started_counts_from_the_offset_where_it_will_start(
    start: str, known: bool, lag: int
) -> None:
    topics = frozenset({"orders"} if known else ())
    of = replace(reading(), progress=replace(PROGRESS, topics=topics, watermarks={}))
    of.declared_topics, of.logs = {"orders": start}, LogRanges({("orders", 0): LogRange(10, 50)})
    assert (topic(of).watermark, topic(of).lag) == (None, lag)


def test_the_age_of_the_oldest_unapplied_record_is_never_negative_and_is_none_if_all_are_applied() -> None:
    assert topic(reading(), "users").oldest_unapplied_seconds is None
    assert topic(reading(), now=999.0).oldest_unapplied_seconds == 0.0


def test_the_age_shown_for_a_topic_is_the_greatest_age_of_its_partitions() -> None:
    of = reading()
    of.oldest_at = {("orders", 0): 1_000.0, ("orders", 1): 990.0, ("users", 0): 1.0}
    assert topic(of).oldest_unapplied_seconds == 17.5


def test_a_queue_has_the_worker_that_holds_its_lease() -> None:
    found = judge_status(reading(), now=0)
    assert {one.queue: one.worker for one in found.queues} == {
        "order.0": "one@host",
        "order.1": None,
        "user.0": None,
    }
    # The retired queue user.0 needs no worker, because no bridge sends to it.
    assert found.queues_without_worker == ["order.1"]


def test_without_postgres_the_log_is_shown_and_the_rest_is_unknown() -> None:
    of = replace(reading(), progress=None, sharing=None, oldest_at={}, unreachable=["Postgres: gone"])
    found = judge_status(of, now=0)
    orders = topic(of)
    assert (orders.log_end, orders.watermark, orders.lag, orders.counters) == (150, None, None, None)
    assert [queue.queue for queue in found.queues] == ["order.0", "order.1", "user.0"]
    assert found.unreachable == ["Postgres: gone"]
    assert ({queue.worker for queue in found.queues}, found.queues_without_worker) == ({None}, None)
    assert unapplied(of) == {}


def test_without_kafka_the_watermark_is_shown_and_the_lag_is_unknown() -> None:
    orders = topic(replace(reading(), logs=None, oldest_at={}))
    assert (orders.log_end, orders.watermark, orders.lag) == (None, 140, None)


def test_without_redis_only_the_lengths_are_unknown() -> None:
    found = judge_status(replace(reading(), lengths=None), now=0)
    assert {queue.length for queue in found.queues} == {None}


def test_a_topic_or_effect_that_no_running_worker_declares_is_shown_as_halted() -> None:
    of = replace(
        reading(),
        undeclared=[Undeclared(Declaration.TOPIC, "orders", 660), Undeclared(Declaration.EFFECT, "pay", 600)],
    )
    found = judge_status(of, now=0)
    assert {one.topic: one.halted_reason for one in found.topics if one.halted_reason} == {
        "orders": "Topic orders is halted: no running worker has declared it for 11 minutes; its records"
        " wait. Start workers whose SLUICE_HANDLERS declare the topic, or also remove the topic from the"
        " code of the bridges."
    }
    assert list(found.halted_effects) == ["pay"]


def test_a_partition_that_kafka_does_not_report_is_marked_and_the_others_are_summed() -> None:
    of = reading()
    of.logs = LogRanges(
        {("orders", 0): LogRange(10, 100)},
        unreadable={("orders", 1): "no leader"},
        unreadable_topics={"users": "denied"},
    )
    found = judge_status(of, now=1_007.5)
    orders = topic(of)
    assert (orders.log_end, orders.lag, orders.incomplete) == (100, 10, True)
    assert [(part.log_end, part.watermark, part.unreachable) for part in orders.partitions] == [
        (100, 90, None),
        (None, 50, "no leader"),
    ]
    assert topic(of, "users").incomplete
    of.logs = LogRanges({}, unreadable={("users", 3): "no leader"})
    [silent] = topic(of, "users").partitions
    assert (silent.partition, silent.unreachable) == (3, "no leader"), "no bridge has started the partition"
    assert found.unreachable == ["topic users: denied", "orders[1]: no leader"]
    assert table_lines(topic_table(found.topics))[1].split()[:4] == ["orders", "100+?", "140", "10+?"]


def test_waiting_records_and_missing_topics_are_named() -> None:
    of = reading()
    ranges = {("orders", 0): LogRange(10, 100, 107), ("orders", 1): LogRange(0, 50, 50)}
    of.logs = LogRanges(ranges, {"orders": "id-1"})
    of.unread = [
        UnreadPartition("orders", 0, UnreadKind.NO_LEADER, "no leader", 61.2),
        UnreadPartition("orders", 1, UnreadKind.NO_LEADER, "no leader", 21.2),
        UnreadPartition("gone", 1, UnreadKind.UNASSIGNED, "of an undeclared topic", 21.2),
    ]
    of.paused_topics = {"users": "a test"}
    found = judge_status(of, now=0)
    assert list(say_what_waits(found)) == [
        "topic users is paused: a test",
        "orders[0], orders[1] are not read for 61 s: no leader",
        "topic orders: up to 7 records wait behind an open transaction of a producer (orders[0] 7); they are"
        " read when this transaction commits, aborts or times out",
        "Kafka has no topic users.",
    ]
    [first, second] = topic(of).partitions
    assert (first.behind_transaction, first.unread_reason, first.unread_seconds) == (7, "no leader", 61.2)
    assert (second.behind_transaction, second.unread_reason) == (0, "no leader")


def test_the_status_is_one_json_document() -> None:
    found = judge_status(reading(), now=1_007.5)
    document = json.loads(json.dumps(asdict(found)))
    assert list(document) == [
        "topics",
        "queues",
        "unreachable",
        "effects_paused",
        "parked_entities",
        "retrying_events",
        "paused_topics",
        "queues_without_worker",
        "installation",
        "refusal",
        "halted_effects",
        "unread",
        "problems",
        "partition_share",
    ]
    assert document["topics"][0]["partitions"][0] == {
        "partition": 0,
        "log_end": 100,
        "watermark": 90,
        "lag": 10,
        "behind_transaction": 0,
        "unread_reason": None,
        "unread_seconds": None,
        "unreachable": None,
    }
    assert document["topics"][0]["counters"]["applied"] == 137


def test_the_tables_show_only_counters_that_are_not_zero() -> None:
    found = judge_status(replace(reading(), lengths=None), now=1_007.5)
    topics = "\n".join(table_lines(topic_table(found.topics)))
    queues = "\n".join(table_lines(queue_table(found.queues, workers_known=True))).removeprefix("queue ")
    assert topics.splitlines()[0].split() == [
        "topic",
        "log",
        "end",
        "watermark",
        "lag",
        "oldest",
        "unapplied",
        "applied",
        "stale",
        "dead",
    ]
    assert topics.splitlines()[1].split() == ["orders", "150", "140", "10", "7.5", "s", "137", "2", "1"]
    assert topics.splitlines()[2].split() == ["users", "0", "none", "0", "-", "0", "0", "0"]
    assert queues.splitlines()[1].split() == ["order.0", "?", "80", "2", "0", "0", "one@host"]
    assert queues.splitlines()[2].split()[:7] == ["order.1", "?", "62", "0", "1", "3", "-"]
    assert "no table orders (since 2026-01-02T03:04:05+00:00)" in queues


def test_the_worker_of_a_queue_is_shown_as_unknown_without_postgres() -> None:
    found = judge_status(replace(reading(), progress=None, sharing=None), now=0)
    assert table_lines(queue_table(found.queues, workers_known=False))[1].split() == [
        "order.0",
        "2",
        "?",
        "?",
    ]
