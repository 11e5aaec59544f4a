"""Finds why a topic prevents a rebuild after `sluice accept`: its log is being read again, or its
offsets are ambiguous.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from sluice.db.admin.audit import AuditRow, read_audits
from sluice.db.admin.rerouting import read_topic_routing, read_watermarks_of
from sluice.db.apply.identities import has_placed_events
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import read_all_modes
from sluice.db.projections.comparison import PATIENCE
from sluice.kafka_io.partition_reader import (
    LogIncomplete,
    PartitionReader,
    PartitionStalled,
    RecordUnreadable,
)
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.place import Place
from sluice.tasks.api import Topic
from sluice.tasks.apply.topic_modes import FORMER_POSITION, effective_mode

MOST_ACCEPTS = 1_000  # maximum number read per topic
READ_SECONDS = 1.0


@dataclass(frozen=True)
class AcceptedTopic:
    """A topic whose log was accepted at least once."""

    topic: str
    topic_id: str
    watermarks: Mapping[int, int]
    accepts: tuple[AuditRow, ...]
    """The rows of `accept` in the audit, newest first."""

    @property
    def displaced_at(self) -> datetime | None:
        """Returns when the offsets of applied records were given to other records; None if never."""
        return next((one.at for one in self.accepts if _displaces(one)), None)

    @property
    def moved_at(self) -> datetime | None:
        """Returns when the topic became another topic (created again, or in another cluster); None
        if never.
        """
        return next((one.at for one in self.accepts if _is_another(one)), None)


def _is_another(accept: AuditRow) -> bool:
    details = accept.details or {}
    return bool(details.get("topic_id") != details.get("topic_id_before"))


def _displaces(accept: AuditRow) -> bool:
    details = accept.details or {}
    return _is_another(accept) or bool(details.get("lost_ends") or details.get("from"))


def left_to_read(found: AcceptedTopic) -> Iterator[tuple[int, int, int]]:
    """Yields (partition, watermark, end) if the watermark is below the end at the time of `accept`. Pure.

    Yields nothing if the topic continued where reading had stopped.
    """
    details = found.accepts[0].details or {}
    for one in () if details.get("continues") else details.get("partitions", ()):
        watermark, end = found.watermarks.get(one["partition"]), one.get("log_end")
        if watermark is not None and end is not None and watermark < end:
            yield one["partition"], watermark, end


def reading_again(access: KafkaAccess, found: AcceptedTopic) -> Iterator[str]:
    """Yields the partitions of an accepted topic that are still being read again.

    Workers skip the events that were applied before. A generation that is swapped in meanwhile
    would lack these events.
    """
    for number, watermark, end in left_to_read(found):
        # Transaction markers are not records: a watermark never reaches an end that consists of them.
        if _holds_records(access, (found.topic, number), watermark, end):
            yield (
                f"{found.topic}[{number}] is being read again after an `accept`: its watermark is"
                f" {watermark} of {end}; start the rebuild when it has reached {end}"
            )


def _holds_records(access: KafkaAccess, place: Place, first: int, end: int) -> bool:
    with closing(PartitionReader(access, place, first)) as reader:
        try:
            while reader.read_through < end - 1:
                if records := reader.read(READ_SECONDS):
                    return records[0].offset < end
        except (LogIncomplete, PartitionStalled, RecordUnreadable):
            return True  # the watermark does not pass this record, either
    return False


def displaced_refusal(found: AcceptedTopic, *, by_position: bool) -> str:
    """Returns why a topic is refused whose events are identified only by their offsets. Pure."""
    what = 'is declared with dedup="position"' if by_position else "has tombstones without id"
    how = "was created again or moved" if found.moved_at == found.displaced_at else "lost the end of its log"
    return (
        f"topic {found.topic} {what}, so these events are identified only by their offsets, and it {how}"
        f" ({found.displaced_at:%Y-%m-%d %H:%M} UTC): the log no longer shows which events were applied"
        " before; start from a checkpoint that was made after this time (--from)"
    )


def moved_note(projection: str, found: AcceptedTopic) -> str:
    """Returns which events of a replaced topic are not rebuilt. Pure."""
    return (
        f"topic {found.topic} was created again or moved ({found.moved_at:%Y-%m-%d %H:%M} UTC): events that"
        f" the current log does not hold are not rebuilt; `sluice rebuild diff {projection}` lists the rows"
        " of these events"
    )


def read_accepted(session: Session, topics: Iterable[str]) -> list[AcceptedTopic]:
    """Returns the topics that were accepted at least once."""
    found = []
    for topic in topics:
        accepts = tuple(read_audits(session, verb="accept", subject=topic, limit=MOST_ACCEPTS))
        routing = read_topic_routing(session, topic)
        if accepts and routing is not None:
            watermarks = read_watermarks_of(session, topic)
            found.append(AcceptedTopic(topic, routing.topic_id, watermarks, accepts))
    return found


def displaced_refusals(
    session: Session, topics: Mapping[str, Topic], accepted: Iterable[AcceptedTopic]
) -> Iterator[str]:
    """Yields the reasons to refuse topics whose offsets no longer show which events were applied."""
    modes = read_all_modes(session)
    for found in accepted:
        if found.displaced_at is None or found.topic not in topics:
            continue
        mode = effective_mode(topics[found.topic].dedup, modes.get(found.topic))
        by_position = mode in ("position", FORMER_POSITION)
        if mode == "position":
            yield displaced_refusal(found, by_position=True)
            continue
        with session.transaction():
            session.command(PATIENCE)  # the query may read all applied events
            if has_placed_events(session, found.topic, found.displaced_at, by_position=by_position):
                yield displaced_refusal(found, by_position=by_position)
