"""Decides where a topic with dedup="position" continues when `sluice accept` accepts its log.

Only the applied offsets of its lanes show which records were applied. So the lanes keep them.
"""

from collections.abc import Mapping

from sluice.admin.decisions import OperationRefused
from sluice.db.admin.lost_letters import count_open_letters, delete_closed_letters
from sluice.db.admin.rerouting import TopicRouting
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import read_all_modes
from sluice.db.delivery.progress import Assignment
from sluice.db.records import DedupMode
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.place import Place
from sluice.runtime.terminal_text import counted, plural


def may_continue(
    session: Session, topic: str, before: TopicRouting, topic_id: str, given: Mapping[int, int]
) -> bool:
    """Returns True if the lanes of the topic keep their applied offsets.

    `given` are the offsets of --from. Raises OperationRefused if there are some, but the lanes are not kept.
    """
    if before.topic_id == topic_id and read_all_modes(session).get(topic) == DedupMode.POSITION:
        return True
    if given:
        raise OperationRefused(
            '--from is valid only for a topic with dedup="position" that was not re-created; the log of topic'
            f" {topic} is read from its beginning"
        )
    return False


def check_starts(
    topic: str,
    assignments: Mapping[Place, Assignment],
    logs: Mapping[int, LogRange],
    given: Mapping[int, int],
) -> None:
    """Raises OperationRefused if an offset of --from is missing or not in the log. Pure.

    `logs` must have been read after the assignments. The result stays valid: if the log loses records later,
    the bridge finds its lanes above the log's end, and stops again.
    """
    for number, start in given.items():
        if (log := logs.get(number)) is None or not log.start <= start <= log.end:
            has = "does not exist" if log is None else f"has the offsets from {log.start} to {log.end}"
            raise OperationRefused(f"--from {number}:{start} is refused: {topic}[{number}] {has}")
    for number in find_lost_ends(assignments, logs):
        if number not in given:
            raise OperationRefused(
                f"the log of {topic}[{number}] ends at {logs[number].end}, below records that were applied,"
                ' so new records get the offsets of lost ones; with dedup="position" only offsets show what'
                f" was applied: pass --from {number}:OFFSET with the offset of the first record that was"
                f" written after the loss ({logs[number].end} if there is none yet)"
            )
    for (_, number), one in sorted(assignments.items()):
        if one.partition_epoch not in (None, one.epoch) and number not in given:
            raise OperationRefused(
                f"{topic}[{number}] has epoch {one.partition_epoch}, but entity type {one.entity} has epoch"
                f" {one.epoch}, so it is not known what was applied: pass --from {number}:OFFSET with the"
                " offset of the first record that was not applied"
            )


def find_lost_ends(assignments: Mapping[Place, Assignment], logs: Mapping[int, LogRange]) -> list[int]:
    """Returns the partitions whose log ends below an applied offset: another record will get this
    offset. Pure.
    """
    return [
        number
        for (_, number), one in sorted(assignments.items())
        if number in logs and max([(one.watermark or 0) - 1, *one.applied.values()]) >= logs[number].end
    ]


def clear_letters(session: Session, topic: str, topic_id: str, starts: Mapping[int, int]) -> None:
    """Deletes closed letters of lost records. Raises OperationRefused if there are open ones.

    There is one letter per place, so the letter of a new record could not be stored.
    """
    if waiting := count_open_letters(session, topic_id, starts):
        raise OperationRefused(
            f"{counted(waiting, 'letter')} of topic {topic} {plural(waiting, 'is', 'are')} open at or above"
            " the offsets of --from, where new records may need letters: redrive or drop them first"
            f" (`sluice dlq ls --topic {topic}`)"
        )
    delete_closed_letters(session, topic_id, starts)
