"""Skips records that the Kafka client cannot decode, so that bridges continue behind them."""

from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.trace import RecordPlace
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.apply.dead_letters import insert_dead_letters
from sluice.db.connection import Session
from sluice.db.delivery.progress import Assignment, read_assignments
from sluice.db.delivery.skipped_records import (
    SkippedRecords,
    insert_skipped_records,
    read_skipped_ranges,
)
from sluice.db.records import RECORD_SKIPPED, DeadLetterRow, Outcome
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.kafka_io.batch_header import UnopenedRecords, find_unopened, read_header
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.log_reader import LogReader
from sluice.kafka_io.partition_reader import LogIncomplete, PartitionReader, RecordUnreadable
from sluice.kafka_io.raw_fetch import fetch_batches, find_unparsed
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place
from sluice.runtime.skipped_range import SkippedRange, next_unskipped
from sluice.tasks.events.identity import record_identity
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.tasks.installation.formats import FLAWED_LETTER_FORMAT

READ_SECONDS = 1.0
LETTERS = 5_000  # per statement
SKIPPED_FLAW = '{"skipped": true}'  # no part of the record is stored


class SkipPlan(NamedTuple):
    """The records that would be skipped, and why they cannot be read."""

    place: Place
    assignment: Assignment
    records: UnopenedRecords
    problem: str


def plan_skip(
    session: Session,
    access: KafkaAccess,
    share: PartitionShare,
    where: RecordPlace,
    *,
    with_kafka_python: bool,
) -> SkipPlan:
    """Reads Postgres and Kafka. Raises OperationRefused unless the record cannot be read.

    `with_kafka_python`: the bridges use kafka-python, so this client decides which records can be read.
    """
    topic, offset = where.topic.name, where.offset
    place = (topic, where.partition)
    skipped = read_skipped_ranges(session).get(place, [])
    if next_unskipped(skipped, offset) > offset:
        raise OperationRefused(
            f"{_name(place, offset)} is skipped already: see `sluice audit ls --verb skip`"
        )
    assignment = _require_assignment(session, place, offset)
    log = _require_in_log(access, share, place, offset, assignment)
    batches = fetch_batches(access, place, offset)
    headers = [read_header(batch) for batch in batches]
    first = min([offset, *(header.first_offset for header in headers)])
    begin = max(first, assignment.watermark or 0, log.start)
    if with_kafka_python:
        failed = _find_unparsed(batches, offset)
    else:
        failed = _find_unreadable(access, place, begin, offset, skipped)
    if failed is None or failed[0] > offset:
        raise OperationRefused(
            f"{_name(place, offset)} can be read, so it is not skipped; a record that cannot be applied"
            " becomes a dead letter by itself"
        )
    unreadable, problem = failed
    # Records of the batch below the watermark already have an outcome: an earlier client could
    # decode the batch.
    found = find_unopened(headers, max(begin, unreadable), log_end=log.log_end or log.end)
    if found is None:
        raise OperationRefused(f"Kafka has no batch of records at or after {_name(place, offset)}")
    return SkipPlan(place, assignment, found, problem)


def skip(session: Session, plan: SkipPlan, decision: Decision) -> None:
    """Skips the records of the plan: stores each as a dead letter without key and value.

    Raises OperationRefused if the records meanwhile got an outcome or were skipped.
    """
    found, (topic, partition) = plan.records, plan.place
    with session.transaction():
        now = _require_assignment(session, plan.place, found.passed_from)
        if now.topic_id != plan.assignment.topic_id:
            raise OperationRefused(f"topic {topic} was re-created meanwhile; run `sluice doctor`")
        skipped = read_skipped_ranges(session).get(plan.place, [])
        if next_unskipped(skipped, found.passed_from) > found.passed_from:
            raise OperationRefused(f"{_name(plan.place, found.passed_from)} was skipped meanwhile")
        insert_skipped_records(
            session,
            SkippedRecords(
                topic,
                now.topic_id,
                partition,
                found.passed_from,
                found.last_offset,
                found.records,
                printable(plan.problem)[:MAX_ERROR_CHARACTERS],
            ),
        )
        queue = queue_name(now.entity, shard_of(None, now.shards))
        offsets = range(found.first_offset, found.first_offset + found.records)
        for n in range(0, len(offsets), LETTERS):
            rows = [_letter(plan, offset, decision.reason) for offset in offsets[n : n + LETTERS]]
            insert_dead_letters(session, queue, now.entity, rows)
        details = {**found._asdict(), "topic_id": now.topic_id, "problem": plan.problem}
        insert_audits(session, decision, [(_name(plan.place, found.first_offset), as_json(details))])


def _require_assignment(session: Session, place: Place, offset: int) -> Assignment:
    """Raises OperationRefused unless a bridge reads the partition and has not passed the offset."""
    assignment = read_assignments(session, [place]).get(place)
    if assignment is None or assignment.watermark is None:
        raise OperationRefused(f"no bridge has read {place[0]}[{place[1]}] yet: there is nothing to skip")
    if offset < assignment.watermark:
        raise OperationRefused(
            f"{_name(place, offset)} already has an outcome: the partition's watermark is"
            f" {assignment.watermark}"
        )
    return assignment


def _require_in_log(
    access: KafkaAccess, share: PartitionShare, place: Place, offset: int, assignment: Assignment
) -> LogRange:
    topic, partition = place
    with closing(LogReader(access, share)) as reader:
        logs = reader.read_ranges([topic])
    if reason := logs.unreadable.get(place) or logs.unreadable_topics.get(topic):
        raise OperationRefused(f"{topic}[{partition}] does not answer: {reason}")
    log = logs.ranges.get(place)
    if log is None:
        raise OperationRefused(f"Kafka has no {topic}[{partition}]")
    if logs.topic_ids[topic] != assignment.topic_id:
        accept = f'`sluice accept {topic} --reason "…"`'
        raise OperationRefused(f"topic {topic} was re-created: first run {accept}")
    if not log.start <= offset < (log.log_end or log.end):
        raise OperationRefused(
            f"{_name(place, offset)} is not in the log, which begins at offset {log.start} and ends"
            f" before offset {log.log_end}"
        )
    if offset >= log.end:
        raise OperationRefused(
            f"{_name(place, offset)} is behind an open transaction, so it can be read only after the end"
            " of the transaction"
        )
    return log


def _find_unparsed(batches: Sequence[bytes], offset: int) -> tuple[int, str] | None:
    """Returns where kafka-python fails in the first batch of records, and why; None if it reads the batch."""
    for batch in batches:
        header = read_header(batch)
        if not header.is_control:
            failed = find_unparsed(batch)
            # There are no records before the batch.
            if failed is not None and failed[0] == header.first_offset:
                return min(offset, failed[0]), failed[1]
            return failed
    return None


def _find_unreadable(
    access: KafkaAccess, place: Place, begin: int, offset: int, skipped: list[SkippedRange]
) -> tuple[int, str] | None:
    """Reads up to the offset. Returns where the client failed, and why; None if it read the record."""
    reader = PartitionReader(access, place, begin, skipped=skipped, client_id="sluice-skip")
    with closing(reader):
        try:
            while reader.read_through < offset:
                reader.read(READ_SECONDS)
        except RecordUnreadable as error:
            return error.offset, error.reason
        except LogIncomplete as error:
            raise OperationRefused(str(error)) from error
    return None


def _letter(plan: SkipPlan, offset: int, reason: str) -> DeadLetterRow:
    topic_id, (topic, partition) = plan.assignment.topic_id, plan.place
    text = f"skipped by an operator ({reason}), because it could not be read: {plan.problem}"
    return DeadLetterRow(
        topic=topic,
        topic_id=topic_id,
        partition=partition,
        offset=offset,
        timestamp_ms=plan.records.timestamp_ms,
        key=None,
        value=None,
        headers="[]",
        entity_key=None,
        identity=record_identity(topic_id, partition, offset),
        event_id=None,
        type=None,
        source=None,
        outcome=Outcome.DEAD,
        error_class=RECORD_SKIPPED,
        error_text=printable(text)[:MAX_ERROR_CHARACTERS],
        flaw=SKIPPED_FLAW,
        format=FLAWED_LETTER_FORMAT,
    )


def _name(place: Place, offset: int) -> str:
    return f"{place[0]}:{place[1]}:{offset}"
