"""Tests what `accept` and `reshard` would do, computed from the state of Postgres and Kafka."""

import pytest

from sluice.admin.accept import PartitionChange, judge_acceptance
from sluice.admin.accept_reasons import find_reasons, is_only_raised
from sluice.admin.decisions import OperationRefused
from sluice.admin.reshard import (
    advice,
    is_settled,
    parked_moves,
    plan_reshard,
    require_other_shards,
    unsettled_text,
)
from sluice.cli.reroute import acceptance_lines
from sluice.db.admin.rerouting import Unsettled
from sluice.db.delivery.partition_reads import PartitionRead
from sluice.db.delivery.progress import Assignment
from sluice.db.records import ProblemKind
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.partition_share import PartitionShare
from sluice.tasks.events.routing import queue_name, shard_of


@pytest.mark.parametrize(
    ("before", "log", "recreated", "expected"),
    [
        (5, LogRange(8, 20), False, PartitionChange(0, 5, 8, 3, 0, 20)),
        (12, LogRange(8, 20), False, PartitionChange(0, 12, 8, 0, 4, 20)),
        (8, LogRange(8, 20), False, PartitionChange(0, 8, 8, 0, 0, 20)),
        (30, LogRange(0, 20), False, PartitionChange(0, 30, 0, 0, 20, 20)),
        (30, LogRange(0, 20), True, PartitionChange(0, 30, 0, None, 0, 20)),
        (None, LogRange(3, 9), False, PartitionChange(0, None, 3, 0, 0, 9)),
        (7, None, True, PartitionChange(0, 7, None, None, 0, None)),
    ],
    ids=[
        "records are lost",
        "records are read again",
        "nothing changes",
        "the log ends below the watermark",
        "the topic was re-created",
        "a new partition",
        "a missing partition",
    ],
)
def test_accept_sets_each_watermark_to_the_start_of_its_log(
    before: int | None, log: LogRange | None, recreated: bool, expected: PartitionChange
) -> None:
    found = judge_acceptance(
        "t",
        "e",
        topic_ids=("old", "new" if recreated else "old"),
        watermarks={} if before is None else {0: before},
        logs={} if log is None else {0: log},
    )
    assert found.partitions == (expected,)
    assert found.recreated is recreated
    assert found.watermarks() == ({} if log is None else {0: log.start})


def test_added_partitions_alone_leave_the_other_partitions_as_they_are() -> None:
    logs = {0: LogRange(8, 20), 2: LogRange(0, 9)}
    found = judge_acceptance("t", "e", topic_ids=("id", "id"), watermarks={0: 12}, logs=logs, adds_only=True)
    assert found.partitions == (PartitionChange(2, None, 0, 0, 0, 9),)
    assert found.watermarks() == {2: 0}


def test_a_topic_with_added_partitions_and_another_problem_is_read_from_its_beginning() -> None:
    share, added = PartitionShare(1, 2), Assignment("id", "e", 1, 1, None, None)
    known = {("t", 0): assignment(), ("t", 2): added}

    def is_raised(logs: dict[int, LogRange], topic_id: str = "id", reported: str = "") -> bool:
        reads = [report(ProblemKind.STOPPED, reported)] if reported else []
        return is_only_raised("t", topic_id, known, logs, reads, share)

    healthy = {0: LogRange(0, 20), 2: LogRange(0, 9)}
    assert is_raised(healthy)
    (why,) = find_reasons("t", "id", known, healthy, [], share)
    assert is_raised(healthy, reported=why)
    assert "in the installation of each of the 2 shares" in why
    assert not is_raised(healthy, topic_id="id-2")
    assert not is_raised(healthy, reported="the log lost records")
    assert not is_raised({**healthy, 0: LogRange(6, 20)})
    assert not is_raised({2: LogRange(0, 9)})
    assert not is_only_raised("t", "id", {("t", 0): assignment()}, healthy, [], share)


def assignment(watermark: int | None = 5, epoch: int = 1, applied: int = 7) -> Assignment:
    return Assignment("id", "e", 1, 4, epoch, watermark, {"e.0": applied})


def report(problem: ProblemKind, detail: str) -> PartitionRead:
    return PartitionRead("t", 0, None, True, None, problem, detail, None, None, None, 600.0)


@pytest.mark.parametrize(
    ("topic_id", "known", "logs", "reads", "reason"),
    [
        ("id", assignment(), {0: LogRange(0, 8)}, [], None),
        ("id", assignment(), {0: LogRange(5, 20), 1: LogRange(0, 9)}, [], None),
        ("id", assignment(), {0: LogRange(0, 8)}, [report(ProblemKind.NO_LEADER, "none")], None),
        ("new", assignment(), {0: LogRange(0, 8)}, [], "was re-created"),
        ("id", assignment(), {0: LogRange(6, 8)}, [], "were deleted from the log before"),
        ("id", assignment(), {0: LogRange(0, 7)}, [], "offset 7 was applied, but the log ends at 7"),
        ("id", assignment(epoch=2), {0: LogRange(0, 8)}, [], "is routed with epoch 2"),
        ("id", assignment(), {1: LogRange(0, 8)}, [], "t[0] does not exist any more"),
        ("id", assignment(), {0: LogRange(0, 8)}, [report(ProblemKind.STOPPED, "lost records")], "lost rec"),
    ],
)
def test_accept_finds_the_reasons_for_which_bridges_stop(
    topic_id: str,
    known: Assignment,
    logs: dict[int, LogRange],
    reads: list[PartitionRead],
    reason: str | None,
) -> None:
    found = list(find_reasons("t", topic_id, {("t", 0): known}, logs, reads))
    assert len(found) == (reason is not None)
    assert reason is None or reason in found[0]


def test_a_stop_that_both_accept_and_a_bridge_found_is_named_one_time() -> None:
    assignments = {("t", 0): assignment()}
    [message] = find_reasons("t", "new", assignments, {0: LogRange(0, 8)}, [])
    again = find_reasons("t", "new", assignments, {0: LogRange(0, 8)}, [report(ProblemKind.STOPPED, message)])
    assert list(again) == [message]


def test_accept_names_the_records_that_are_lost_and_those_that_are_read_again() -> None:
    found = judge_acceptance(
        "t",
        "e",
        topic_ids=("i", "i"),
        watermarks={0: 5, 1: 9},
        logs={0: LogRange(8, 9), 1: LogRange(2, 9), 2: LogRange(0, 0)},
    )
    lines = "\n".join(acceptance_lines(found))
    assert "partition 0: watermark 5 → 8, up to 3 records will never be applied" in lines
    assert "partition 1: watermark 9 → 2, up to 7 records are read again" in lines
    assert "partition 2: new, read from 0" in lines
    assert "as long as their identities are kept" in lines
    assert "re-created" not in lines


def test_accept_of_a_re_created_topic_names_no_number_of_lost_records() -> None:
    found = judge_acceptance(
        "t", "e", topic_ids=("old", "new"), watermarks={0: 5, 1: 2}, logs={0: LogRange(0, 3)}
    )
    lines = "\n".join(acceptance_lines(found))
    assert "old → new: the topic was re-created" in lines
    assert "partition 1: gone, its watermark 2 is removed" in lines
    assert "never be applied" not in lines
    assert "were not applied are lost" in lines


@pytest.mark.parametrize(
    ("found", "settled", "text", "hint"),
    [
        (Unsettled(0, 0, 0, 0), True, "everything is settled", ""),
        (Unsettled(2, 0, 0, 0), False, "2 lanes have records in flight", "every queue has a worker"),
        (Unsettled(2, 0, 0, 1), False, "2 lanes", "1 queue of the entity type is halted"),
        (Unsettled(0, 3, 0, 0), False, "3 outgoing events wait", "relay,maintenance"),
        (Unsettled(0, 3, 1, 0), False, "3 outgoing events wait", "1 outgoing event is refused"),
    ],
)
def test_unfinished_work_is_named_with_advice(found: Unsettled, settled: bool, text: str, hint: str) -> None:
    assert is_settled(found) is settled
    assert text in unsettled_text(found)
    assert hint in advice(found)


def test_the_plan_names_new_queues_and_unused_queues() -> None:
    more, fewer = plan_reshard("e", 1, 3, 2, 0), plan_reshard("e", 3, 1, 2, 0)
    assert (more.new_queues, more.unused_queues) == (("e.1", "e.2"), ())
    assert (fewer.new_queues, fewer.unused_queues) == ((), ("e.1", "e.2"))


def test_a_parked_entity_moves_to_the_queue_that_receives_its_records() -> None:
    keys = [f"k{n}" for n in range(40)]
    parked = {key: queue_name("e", shard_of(key.encode(), 4)) for key in keys}
    moves = parked_moves(parked, "e", 3)
    assert {**parked, **moves} == {key: queue_name("e", shard_of(key.encode(), 3)) for key in keys}
    assert all(parked[key] != queue for key, queue in moves.items())


@pytest.mark.parametrize(
    ("before", "message"), [(None, "there is no entity type e"), (4, "4 shards already")]
)
def test_resharding_without_a_change_or_an_entity_type_is_refused(before: int | None, message: str) -> None:
    with pytest.raises(OperationRefused, match=message):
        require_other_shards("e", before, 4)
