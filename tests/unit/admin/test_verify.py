"""Tests how `sluice verify` compares a log with the counters."""

import json
from types import ModuleType

import pytest

from sluice.admin import partition_verdict
from sluice.admin.documents import as_json
from sluice.admin.partition_verdict import (
    LogFacts,
    Verdict,
    Verified,
    end_to_count,
    has_outcome,
    judge_partition,
)
from sluice.cli.tables import table_lines
from sluice.cli.verify import partition_table, summary_lines, verified_document
from sluice.db.admin.letters import LetterCount
from sluice.db.admin.outbox_admin import QueueWaiting
from sluice.db.admin.projection_letters import OpenLetterCount
from sluice.db.admin.totals import PartitionTotals
from sluice.tasks.events.routing import queue_name, shard_of
from tests.mutants import mutated


def key_of(queue: str) -> bytes:
    """Returns a record key that is routed to the queue."""
    keys = (str(number).encode() for number in range(1_000))
    return next(key for key in keys if queue_name("order", shard_of(key, 4)) == queue)


@pytest.mark.parametrize(
    ("log", "counted", "from_the_end", "verdict", "message"),
    [
        (LogFacts(0, 5), 5, False, Verdict.EQUAL, ""),
        (LogFacts(0, 5), 4, False, Verdict.MISMATCH, "1 record in the log has no outcome"),
        (LogFacts(0, 5), 6, False, Verdict.MISMATCH, "1 more outcomes than records"),
        (LogFacts(7, 5), 12, False, Verdict.UNCOUNTABLE, "records below 7 are deleted"),
        # Each record that is still in the log must have been counted.
        (LogFacts(7, 5), 4, False, Verdict.MISMATCH, "1 record in the log has no outcome"),
        (LogFacts(0, 5, compacted=True), 9, False, Verdict.UNCOUNTABLE, "the topic is compacted"),
        (LogFacts(0, 5, compacted=True), 4, False, Verdict.MISMATCH, "1 record"),
        (LogFacts(0, 5), 4, True, Verdict.UNCOUNTABLE, "began at the topic's end"),
        (LogFacts(0, 5), 6, True, Verdict.MISMATCH, "1 more outcomes than records"),
        (None, 6, False, Verdict.UNCOUNTABLE, "Kafka has no such partition"),
    ],
)
def test_the_verdict_about_a_partition_follows_from_its_log_and_counters(
    log: LogFacts | None, counted: int, from_the_end: bool, verdict: Verdict, message: str
) -> None:
    totals = PartitionTotals("order", 4, 10, counted)
    found = judge_partition("orders", 0, totals, log, from_the_end=from_the_end, rerouted=False)
    assert found.verdict is verdict
    assert message in found.said
    assert bool(found.said) == bool(message)


def test_outcomes_of_records_that_are_no_longer_in_the_log_are_not_a_mismatch() -> None:
    totals, log = PartitionTotals("order", 4, 10, 7), LogFacts(0, 5)
    accepted = judge_partition("orders", 0, totals, log, from_the_end=False, rerouted=True)
    assert (accepted.verdict, "an accept" in accepted.said) == (Verdict.UNCOUNTABLE, True)
    totals.read_again = True
    again = judge_partition("orders", 0, totals, log, from_the_end=False, rerouted=False)
    assert (again.verdict, "read again" in again.said) == (Verdict.UNCOUNTABLE, True)
    # A record in the log without an outcome is always a mismatch.
    uncounted = judge_partition("orders", 0, totals, LogFacts(0, 8), from_the_end=False, rerouted=True)
    assert uncounted.verdict is Verdict.MISMATCH


def test_a_natural_topic_counts_records_again_after_a_forced_re_routing() -> None:
    totals = PartitionTotals("order", 4, 10, 12, {})
    found = judge_partition(
        "orders", 0, totals, LogFacts(0, 10), from_the_end=False, rerouted=True, natural=True
    )
    assert found.verdict is Verdict.UNCOUNTABLE
    assert 'the topic has dedup="natural" and stores no identities' in found.said


def test_above_the_watermark_a_record_has_an_outcome_only_if_its_lane_is_ahead() -> None:
    totals = PartitionTotals("order", 4, 10, 0, {"order.0": 14, "order.1": 11, "order.2": 9})
    ahead, behind, none = key_of("order.0"), key_of("order.2"), key_of("order.3")
    assert has_outcome(totals, 9, none)
    assert has_outcome(totals, 14, ahead)
    assert not has_outcome(totals, 15, ahead)
    assert not has_outcome(totals, 12, key_of("order.1"))
    assert not has_outcome(totals, 10, behind)
    assert not has_outcome(totals, 10, none)
    assert end_to_count(totals) == 15
    assert end_to_count(PartitionTotals("order", 4, 10)) == 10


def test_the_result_prints_as_one_json_document_or_as_a_table() -> None:
    good = judge_partition(
        "orders", 0, PartitionTotals("order", 4, 5, 5), LogFacts(0, 5), from_the_end=False, rerouted=False
    )
    bad = judge_partition(
        "orders", 1, PartitionTotals("order", 4, 5, 6), LogFacts(0, 5), from_the_end=False, rerouted=False
    )
    letters = [
        LetterCount("orders", "NoHandler", "dead", "dead", 2),
        LetterCount("orders", "Conflict", "dead", "conflict", 1),
        LetterCount("orders", "NoHandler", "done", "dead", 9),
    ]
    outbox = [QueueWaiting("order.0", 3, 1, 125.0)]
    found = Verified([good, bad], letters, 1, outbox, [("notify", "failed", 4)])
    document = json.loads(as_json(verified_document(found)))
    assert (document["ok"], document["parked_entities"]) == (False, 1)
    assert [one["verdict"] for one in document["partitions"]] == ["equal", "mismatch"]
    assert summary_lines(found) == [
        "dead letters: 1 conflict, 2 dead",
        "parked entities: 1",
        "outgoing events: 3 wait, the oldest for 2m, 1 refused",
        "calls: notify 4 failed",
        "partitions whose counters differ from the log: 1",
    ]
    assert summary_lines(Verified([good], [], 0, [], []))[-1] == "counters and log agree"
    assert table_lines(partition_table([good, bad]))[1].split() == [
        "orders",
        "0",
        "5",
        "5",
        "5",
        "equal",
        "-",
    ]


def judges_correctly(module: ModuleType) -> bool:
    """Returns True if the module counts exactly the applied records and gives each correct verdict."""
    totals = PartitionTotals("order", 4, 10, 12, {"order.0": 14, "order.1": 9})
    counted = [
        (offset, queue)
        for offset in range(20)
        for queue in ("order.0", "order.1", "order.2")
        if module.has_outcome(totals, offset, key_of(queue))
    ]
    expected = [(offset, queue) for offset in range(10) for queue in ("order.0", "order.1", "order.2")]
    expected += [(offset, "order.0") for offset in range(10, 15)]
    judged = [
        module.judge_partition("orders", 0, totals, log, from_the_end=latest, rerouted=False).verdict.value
        for log in (LogFacts(0, 11), LogFacts(0, 12), LogFacts(0, 13), LogFacts(3, 11), LogFacts(3, 13))
        for latest in (False, True)
    ]
    unknown = Verdict.UNCOUNTABLE.value
    wrong, right = Verdict.MISMATCH.value, Verdict.EQUAL.value
    wanted = [wrong, wrong, right, right, wrong, unknown, unknown, unknown, wrong, unknown]
    return counted == expected and judged == wanted and module.end_to_count(totals) == 15


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if offset < totals.watermark:", "if offset <= totals.watermark:"),
        ("return offset <= totals.applied.get(queue, -1)", "return offset < totals.applied.get(queue, -1)"),
        ("return offset <= totals.applied.get(queue, -1)", "return False"),
        ("return offset <= totals.applied.get(queue, -1)", "return offset <= max(totals.applied.values())"),
        ("(offset + 1 for offset in totals.applied.values())", "(o for o in totals.applied.values())"),
        ("log.records < totals.counted and fewer:", "fewer:"),
        ("log.records > totals.counted and more:", "more:"),
        ("if log.start > 0 else []", "if log.start >= 0 else []"),
    ],
)
def test_a_mutant_of_the_verdict_is_found(old: str, new: str) -> None:
    assert judges_correctly(partition_verdict)
    assert not judges_correctly(mutated(partition_verdict, old, new))


def test_rows_that_a_projection_lacks_are_explained_and_are_not_a_mismatch() -> None:
    found = Verified([], [], 0, [], [], [OpenLetterCount("revenue", 1, 4)], ["lines"])
    assert summary_lines(found)[1:3] == [
        "projection revenue lacks 5 events: 1 could not be applied to it, 4 wait behind them",
        "projection lines is stopped: its rows are out of date",
    ]
    assert verified_document(found)["ok"]
