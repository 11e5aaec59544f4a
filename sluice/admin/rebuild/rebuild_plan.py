"""Plans a rebuild: the records that it would read, and the reasons against it."""

from contextlib import closing
from dataclasses import dataclass

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild.accepted_topics import (
    displaced_refusals,
    moved_note,
    read_accepted,
    reading_again,
)
from sluice.admin.rebuild.losses import read_plan_refusals
from sluice.admin.rebuild.preflight import (
    Source,
    checkpoint_refusals,
    compacted,
    first_offsets,
    source_refusals,
    unreadable_refusals,
)
from sluice.db.connection import Session
from sluice.db.delivery.progress import read_epochs, read_reach
from sluice.db.projections.checkpoints import Checkpoint, read_checkpoints
from sluice.db.projections.generation_tables import TableFacts, read_table
from sluice.db.projections.generations import read_projection_snapshot
from sluice.db.tables import generation_name
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.service_urls import StackUrls
from sluice.tasks.fold.registry import Registry
from sluice.tasks.retention import read_topic_configs


@dataclass(frozen=True)
class Plan:
    """The records that a rebuild would read, and the reasons against the rebuild."""

    projection: str
    live: int
    revision: int
    live_revision: int
    table: TableFacts
    checkpoint: Checkpoint | None
    sources: list[Source]
    compacted_topics: list[str]
    refusals: list[str]
    notes: list[str]
    """Remarks for the operator that do not prevent the rebuild."""

    @property
    def records(self) -> int:
        """Returns the number of records to read, of all partitions."""
        return sum(source.records for source in self.sources)


def make_plan(
    session: Session,
    registry: Registry,
    urls: StackUrls,
    share: PartitionShare,
    projection: str,
    from_checkpoint: str | None,
) -> Plan:
    """Reads Postgres and Kafka. Raises OperationRefused for an unknown projection or checkpoint."""
    revision = require_declared(registry, projection)
    snapshot = read_projection_snapshot(session)
    if projection not in snapshot.live:
        raise OperationRefused(f"projection {projection} has no row: run `sluice init`")
    live = snapshot.live[projection]
    reach = read_reach(session)
    topics = sorted({topic for topic, _ in reach})
    with closing(LogReader(urls.kafka_access, share)) as reader:
        logs = reader.read_ranges(topics)
    checkpoint = _require_checkpoint(session, projection, from_checkpoint) if from_checkpoint else None
    firsts = first_offsets(checkpoint.lanes if checkpoint else ())
    sources = [
        Source(
            topic,
            number,
            there.start if there else None,
            there.end if there else None,
            through,
            firsts.get((topic, number), 0),
        )
        for (topic, number), through in sorted(reach.items())
        for there in [logs.ranges.get((topic, number))]
        if (topic, number) not in logs.unreadable
    ]
    columns = [column.name for column in registry.projection_tables[projection].columns]
    refusals = [
        *read_plan_refusals(session, projection, live, columns),
        *source_refusals(sources, list(registry.topics), topics),
        *unreadable_refusals(logs),
    ]
    if checkpoint is not None:
        refusals += checkpoint_refusals(
            checkpoint, columns, read_table(session, checkpoint.table), read_epochs(session)
        )
    accepted = read_accepted(session, topics)
    refusals += [why for one in accepted for why in reading_again(urls.kafka_access, one)]
    taken = registry.projection_topics[projection]
    displaced = [one for one in accepted if one.topic in taken] if checkpoint is None else []
    refusals += displaced_refusals(session, registry.topics, displaced)
    configs = read_topic_configs(urls.kafka_access, topics) if topics else {}
    return Plan(
        projection,
        live,
        revision,
        snapshot.live_revisions[projection],
        read_table(session, generation_name(projection, live)),
        checkpoint,
        sources,
        compacted(configs),
        refusals,
        [moved_note(projection, one) for one in displaced if one.moved_at is not None],
    )


def _require_checkpoint(session: Session, projection: str, name: str) -> Checkpoint:
    known = read_checkpoints(session, projection)
    found = [one for one in known if one.checkpoint == name]
    if not found:
        names = ", ".join(one.checkpoint for one in known) or "none"
        raise OperationRefused(f"{projection} has no checkpoint {name}; there are: {names}")
    return found[0]


def require_declared(registry: Registry, projection: str) -> int:
    """Returns the revision of the code that fills the projection. Raises OperationRefused."""
    if projection not in registry.revisions:
        known = ", ".join(sorted(registry.revisions)) or "none"
        raise OperationRefused(
            f"no module of SLUICE_HANDLERS projects into {projection}; the declared projections are: {known}"
        )
    return registry.revisions[projection]
