"""What `sluice accept` does to a topic, from what Postgres and Kafka say of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sluice.kafka_io.log_range import LogRange


@dataclass(frozen=True)
class PartitionChange:
    """One partition; numbers of records are the most they can be, since offsets have holes.

    `before` is None for a partition that is new, `after` for one that is gone. `lost` is None where nobody
    can know: the old topic's log is no longer there.
    """

    partition: int
    before: int | None
    after: int | None
    lost: int | None
    """Records that will never be applied."""
    again: int
    """Records that were applied perhaps, and are read once more."""


@dataclass(frozen=True)
class Acceptance:
    """All of it."""

    topic: str
    entity: str
    topic_id_before: str
    topic_id: str
    partitions: tuple[PartitionChange, ...]

    @property
    def recreated(self) -> bool:
        """Whether it is another topic under the same name."""
        return self.topic_id != self.topic_id_before

    def watermarks(self) -> dict[int, int]:
        """Partition → where it is read from."""
        return {one.partition: one.after for one in self.partitions if one.after is not None}

    def document(self) -> dict[str, Any]:
        """For --json and for `audit`."""
        return {
            "topic": self.topic,
            "entity": self.entity,
            "topic_id_before": self.topic_id_before,
            "topic_id": self.topic_id,
            "partitions": list(self.partitions),
        }


def judge_acceptance(
    topic: str,
    entity: str,
    *,
    topic_ids: tuple[str, str],
    watermarks: Mapping[int, int],
    logs: Mapping[int, LogRange],
) -> Acceptance:
    """What accepting comes to; `topic_ids` are that in Postgres and that in Kafka."""
    before, now = topic_ids
    changes = tuple(
        _change(number, watermarks.get(number), logs.get(number), recreated=before != now)
        for number in sorted({*watermarks, *logs})
    )
    return Acceptance(topic, entity, before, now, changes)


def acceptance_lines(found: Acceptance) -> list[str]:
    """For people: per partition, then what it means."""
    lines = [f"topic {found.topic} (entity type {found.entity})"]
    if found.recreated:
        lines.append(f"id: {found.topic_id_before} → {found.topic_id}: it was re-created")
    lines += [_line(one) for one in found.partitions]
    if found.recreated:
        lines.append("what the old topic held above its watermarks and was not applied is lost")
        lines.append("an event that the new topic holds again is a duplicate, if it has an id of its own")
    if any(one.again for one in found.partitions):
        lines.append(
            "what is read again changes nothing as long as its identity is kept"
            " (SLUICE_KEEP_IDENTITIES_DAYS); duplicates among it are counted again"
        )
    return lines


def _change(number: int, before: int | None, log: LogRange | None, *, recreated: bool) -> PartitionChange:
    if log is None:
        return PartitionChange(number, before, None, None, 0)
    if before is None:
        return PartitionChange(number, None, log.start, 0, 0)
    if recreated:
        return PartitionChange(number, before, log.start, None, 0)
    lost = max(0, log.start - before)
    return PartitionChange(number, before, log.start, lost, max(0, min(before, log.end) - log.start))


def _line(one: PartitionChange) -> str:
    if one.after is None:
        return f"partition {one.partition}: gone, its watermark {one.before} is removed"
    if one.before is None:
        return f"partition {one.partition}: new, read from {one.after}"
    said = [f"partition {one.partition}: watermark {one.before} → {one.after}"]
    if one.lost:
        said.append(f"up to {one.lost} records will never be applied")
    if one.again:
        said.append(f"up to {one.again} records are read again")
    return ", ".join(said)
