"""Computes the output of `sluice status`: the progress of each topic and queue. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sluice.admin.doctor.facts import Facts
from sluice.admin.doctor.rules import missing_topic, situation_problems
from sluice.db.admin.totals import ProgressRead, QueueState
from sluice.db.apply.guard import COUNTERS
from sluice.db.delivery.leases import Sharing
from sluice.db.delivery.undeclared import Undeclared
from sluice.db.delivery.unread_partitions import UnreadPartition
from sluice.db.records import Declaration
from sluice.kafka_io.log_range import LogRange, LogRanges, find_unapplied, lag_records
from sluice.runtime.installation import Installation
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place


@dataclass
class Reading:
    """What was read from each service; None if the service was not reached."""

    declared_topics: Mapping[str, str]
    """Topic → where a bridge begins to read it: "earliest" or "latest"."""
    declared_queues: Mapping[str, str]
    """Queue → its entity type."""
    progress: ProgressRead | None = None
    logs: LogRanges | None = None
    oldest_at: Mapping[Place, float] = field(default_factory=dict)
    """Partition → Unix time of its first unapplied record, if there is one."""
    lengths: Mapping[str, int] | None = None
    unreachable: list[str] = field(default_factory=list)
    effects_paused: str | None = None
    parked_entities: int | None = None
    retrying_events: int | None = None
    paused_topics: Mapping[str, str] = field(default_factory=dict)
    sharing: Sharing | None = None
    installation: Installation | None = None
    refusal: str | None = None
    """Why no process works with this database."""
    undeclared: Sequence[Undeclared] = ()
    """Topics and effects that are halted because no running worker declares them."""
    unread: Sequence[UnreadPartition] = ()
    """Partitions that no bridge reads, or that a bridge stopped reading."""
    share: PartitionShare = WHOLE
    situation: Facts | None = None
    """The facts about servers and processes that `sluice doctor` also judges."""


@dataclass(frozen=True)
class PartitionStatus:
    """One partition. `lag` is in records, None if it is not known."""

    partition: int
    log_end: int | None
    watermark: int | None
    lag: int | None
    behind_transaction: int | None = None
    """The number of offsets above `log_end` that an open transaction holds back."""
    unread_reason: str | None = None
    """Why no bridge reads it, or why a bridge stopped reading it."""
    unread_seconds: float | None = None
    unreachable: str | None = None
    """Why Kafka did not report its log."""


@dataclass(frozen=True)
class TopicStatus:
    """A topic. `log_end`, `watermark` and `lag` are sums over its known partitions."""

    topic: str
    log_end: int | None
    watermark: int | None
    lag: int | None
    oldest_unapplied_seconds: float | None
    counters: Mapping[str, int] | None
    partitions: list[PartitionStatus]
    halted_reason: str | None = None
    """Why its records wait, if no running worker declares it; else None."""
    behind_transaction: int = 0
    """Offsets that open transactions hold back."""
    incomplete: bool = False
    """True if Kafka did not report some of its logs."""


@dataclass(frozen=True)
class QueueStatus:
    """A queue. `length` is the number of messages in its Redis list, `worker` the node with its lease."""

    queue: str
    entity: str
    length: int | None
    halted_reason: str | None
    halted_at: str | None
    counters: Mapping[str, int] | None
    worker: str | None = None


@dataclass(frozen=True)
class Status:
    """The whole status. `unreachable` has one sentence per service or partition that did not answer.

    `effects_paused` is why all calls are paused, if they are. `parked_entities` is the number of entities
    whose events wait, None if not known; `retrying_events` is the number of events that were set aside for
    retries. `paused_topics` is topic → why it is paused. `queues_without_worker` are the queues without a
    lease, None if not known. `installation` is `<name>-<short id>`, which is also the consumer group.
    `refusal` is why no process works with this database. `halted_effects` is effect → why its calls wait,
    for effects that no running worker declares. `unread` are the partitions that no bridge reads, or that a
    bridge stopped reading. `problems` are the sentences of `sluice doctor` about servers and processes,
    without its advice.
    """

    topics: list[TopicStatus]
    queues: list[QueueStatus]
    unreachable: list[str]
    effects_paused: str | None = None
    parked_entities: int | None = None
    retrying_events: int | None = None
    paused_topics: Mapping[str, str] = field(default_factory=dict)
    queues_without_worker: list[str] | None = None
    installation: str | None = None
    refusal: str | None = None
    halted_effects: Mapping[str, str] = field(default_factory=dict)
    unread: Sequence[UnreadPartition] = ()
    problems: Sequence[str] = ()
    partition_share: str = str(WHOLE)


def judge_status(reading: Reading, *, now: float) -> Status:
    """Returns the status; `now` is Unix time."""
    progress = reading.progress
    topics = sorted(set(reading.declared_topics) | (progress.topics if progress else set()))
    declared = {name: QueueState(entity) for name, entity in reading.declared_queues.items()}
    queues = declared | dict(progress.queues if progress else {})
    return Status(
        [_topic(name, reading, now) for name in topics],
        [_queue(name, state, reading) for name, state in sorted(queues.items())],
        [*reading.unreachable, *_unreachable_logs(reading.logs)],
        reading.effects_paused,
        reading.parked_entities,
        reading.retrying_events,
        dict(reading.paused_topics),
        reading.sharing.unheld() if reading.sharing else None,
        reading.installation.group if reading.installation else None,
        reading.refusal,
        _halted(reading, Declaration.EFFECT),
        [one for one in reading.unread if one.topic in topics],
        _problems(reading),
        str(reading.share),
    )


def _problems(reading: Reading) -> list[str]:
    found = [one.problem for one in situation_problems(reading.situation)] if reading.situation else []
    if reading.logs is not None:
        known = reading.logs.topic_ids.keys() | reading.logs.unreadable_topics.keys()
        found += [missing_topic(name) for name in sorted(reading.declared_topics) if name not in known]
    return found


def _unreachable_logs(logs: LogRanges | None) -> list[str]:
    if logs is None:
        return []
    return [
        *(f"topic {topic}: {reason}" for topic, reason in sorted(logs.unreadable_topics.items())),
        *(f"{topic}[{number}]: {reason}" for (topic, number), reason in sorted(logs.unreadable.items())),
    ]


def unapplied(reading: Reading) -> dict[Place, int]:
    """Returns partition with unapplied records → the offset from which to search the first of
    these records.
    """
    logs = reading.logs.ranges if reading.logs else {}
    return find_unapplied(logs, {place: _lag(place, log, reading) or 0 for place, log in logs.items()})


def _lag(place: Place, log: LogRange, reading: Reading) -> int | None:
    progress = reading.progress
    if progress is None:
        return None
    # If a bridge begins to read a new topic at its end, the earlier records are never applied.
    new = place[0] not in progress.topics
    at_end = new and reading.declared_topics.get(place[0]) == "latest"
    return lag_records(log, progress.watermarks.get(place), begins_at_end=at_end)


def _topic(topic: str, reading: Reading, now: float) -> TopicStatus:
    logs, progress = reading.logs or LogRanges(), reading.progress
    watermarks = progress.watermarks if progress else {}
    unread = {(one.topic, one.partition): one for one in reading.unread}
    places = sorted({*logs.ranges, *logs.unreadable, *watermarks, *unread})
    partitions = []
    for place in places:
        if place[0] != topic:
            continue
        log, reason = logs.ranges.get(place), unread.get(place)
        partitions.append(
            PartitionStatus(
                place[1],
                log.end if log else None,
                watermarks.get(place),
                _lag(place, log, reading) if log else None,
                log.behind_transaction if log else None,
                reason.reason if reason else None,
                reason.seconds if reason else None,
                logs.unreadable.get(place) or logs.unreadable_topics.get(topic),
            )
        )
    ages = [now - at for place, at in reading.oldest_at.items() if place[0] == topic]
    return TopicStatus(
        topic,
        _sum(part.log_end for part in partitions),
        _sum(part.watermark for part in partitions),
        _sum(part.lag for part in partitions),
        # The clock of a producer may be ahead of the clock of this machine.
        max(0.0, *ages) if ages else None,
        _counters(progress, topic=topic),
        partitions,
        _halted(reading, Declaration.TOPIC).get(topic),
        sum(part.behind_transaction or 0 for part in partitions),
        topic in logs.unreadable_topics or any(part.unreachable for part in partitions),
    )


def _halted(reading: Reading, kind: Declaration) -> dict[str, str]:
    return {one.name: f"{one.problem} {one.advice}" for one in reading.undeclared if one.kind is kind}


def _queue(queue: str, state: QueueState, reading: Reading) -> QueueStatus:
    return QueueStatus(
        queue,
        state.entity,
        None if reading.lengths is None else reading.lengths.get(queue, 0),
        state.halted_reason,
        state.halted_at.isoformat() if state.halted_at else None,
        _counters(reading.progress, queue=queue),
        reading.sharing.holders().get(queue) if reading.sharing else None,
    )


def _counters(
    progress: ProgressRead | None, *, topic: str | None = None, queue: str | None = None
) -> dict[str, int] | None:
    if progress is None:
        return None
    total = Counter(dict.fromkeys(COUNTERS, 0))
    for (of_topic, of_queue), counts in progress.counters.items():
        if topic in (None, of_topic) and queue in (None, of_queue):
            total.update(counts)
    return dict(total)


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Returns the sum of the known numbers, None if none is known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
