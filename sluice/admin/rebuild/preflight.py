"""Finds all reasons why a generation cannot be started or swapped in, and the advice for each
reason. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sluice.admin.rebuild.carry_over import reader_refusals
from sluice.db.projections.checkpoints import Checkpoint, CheckpointLane
from sluice.db.projections.generation_tables import TableFacts
from sluice.db.tables import generation_name
from sluice.kafka_io.log_range import LogRanges
from sluice.runtime.place import Place
from sluice.runtime.terminal_text import counted


@dataclass(frozen=True)
class Source:
    """A partition to read: its log, the offset of the live generation, and the first offset to read."""

    topic: str
    partition: int
    log_start: int | None
    """None if the topic is not in Kafka."""
    log_end: int | None
    live_through: int
    """Offset of the last record that the live generation has applied; -1 if none."""
    first: int = 0

    @property
    def records(self) -> int:
        """Returns the number of records to read until the generation has caught up, if no new
        records arrive.
        """
        return max(0, self.live_through + 1 - max(self.first, self.log_start or 0))


def table_refusals(
    projection: str, live: int, columns: Sequence[str], table: TableFacts, view: TableFacts
) -> Iterator[str]:
    """Yields why the live generation's table, or the view over it, prevents a rebuild."""
    name = generation_name(projection, live)
    if table.kind != "table":
        yield f"{name}, which must have the rows of the live generation, is not a table"
        return
    if view.kind != "view":
        yield f"{projection} is {'no longer a view' if view.kind else 'missing'}: a swap needs it"
        return
    missing = [column for column in columns if column not in table.columns]
    if missing:
        yield (
            f"column {', '.join(missing)} is declared but missing in {name}: add it as nullable to every"
            " generation, then start the rebuild"
        )
    left = [column for column in table.columns if column not in columns]
    if left:
        yield (
            f"column {', '.join(left)} of {name} is no longer declared: drop the column in {name}, or"
            " declare it"
        )
    shown = list(view.columns)
    if not missing and not left and shown != list(columns):
        yield (
            f"the view {projection} shows {', '.join(shown)}, the code declares {', '.join(columns)}: replace"
            " the view by one with the declared columns, in their order"
        )
    if table.triggers:
        yield (
            f"{name} has the trigger {', '.join(table.triggers)}, which a rebuild would fire for every"
            " row again: drop it"
        )
    yield from reader_refusals(projection, name, table.readers)
    if table.owner != view.owner:
        yield (
            f"the view {projection} belongs to {view.owner}, {name} to {table.owner}: after a swap, the"
            " view could not read the table of the next generation; give both to one role"
        )


def source_refusals(
    sources: Sequence[Source], declared: Sequence[str], known: Sequence[str]
) -> Iterator[str]:
    """Yields why the topics in Kafka, or their declarations, prevent a rebuild."""
    for topic in sorted(set(known) - set(declared)):
        yield (
            f"records of topic {topic} were applied, but no module of SLUICE_HANDLERS declares it: declare"
            " it (in development you can begin with an empty database instead: `sluice stack down --wipe`)"
        )
    gone = sorted({source.topic for source in sources if source.log_start is None})
    for topic in gone:
        yield f"topic {topic} no longer exists in Kafka: the records that were applied cannot be read again"
    for source in sources:
        start = source.log_start or 0
        if start > source.first and source.live_through >= source.first:
            yield (
                f"{source.topic}[{source.partition}] begins at offset {start}: records before it are"
                " deleted; start from a checkpoint that covers them (--from)"
            )


def unreadable_refusals(logs: LogRanges) -> Iterator[str]:
    """Yields the topics and partitions whose logs could not be read from Kafka."""
    for topic, reason in sorted(logs.unreadable_topics.items()):
        yield f"topic {topic} cannot be read: {reason}"
    for (topic, number), reason in sorted(logs.unreadable.items()):
        yield f"{topic}[{number}] cannot be read: {reason}; try again when its broker answers"


def first_offsets(lanes: Iterable[CheckpointLane]) -> dict[Place, int]:
    """Returns partition → the first offset to read after a checkpoint."""
    found: dict[Place, int] = {}
    for lane in lanes:
        place = (lane.topic, lane.partition)
        found[place] = min(found.get(place, lane.applied_offset + 1), lane.applied_offset + 1)
    return found


def checkpoint_refusals(
    checkpoint: Checkpoint, columns: Sequence[str], table: TableFacts, epochs: Mapping[str, int]
) -> Iterator[str]:
    """Yields why no generation can start from a checkpoint."""
    rerouted = sorted(
        {
            lane.queue.rpartition(".")[0]
            for lane in checkpoint.lanes
            if epochs.get(lane.queue.rpartition(".")[0]) != lane.epoch
        }
    )
    if rerouted:
        yield (
            f"entity type {', '.join(rerouted)} was re-routed, or a topic of it accepted, since checkpoint"
            f" {checkpoint.checkpoint}: the lanes of the checkpoint do not match the current lanes; make"
            " a new checkpoint"
        )
    if list(table.columns) != list(columns):
        yield (
            f"checkpoint {checkpoint.checkpoint} has the columns {', '.join(table.columns)}, the code"
            f" declares {', '.join(columns)}: add the missing columns to {checkpoint.table}, as nullable"
        )


def swap_refusals(
    projection: str,
    generation: int,
    *,
    differing: int | None,
    against: int | None,
    live: int,
    approved: bool,
    deaths: int,
) -> Iterator[str]:
    """Yields why a generation that was never live cannot be swapped in. `differing` is None if the
    generation was never compared.
    """
    if differing is None:
        yield f"it was never compared with the live one: run `sluice rebuild diff {projection}`"
    elif against != live:
        yield (
            f"it was compared with generation {against}, but generation {live} is live now: repeat"
            " `sluice rebuild diff"
            f" {projection}`"
        )
    elif differing and not approved:
        yield (
            f"it differs in {counted(differing, 'row')} and is not approved: run `sluice rebuild approve"
            f' {projection} --reason "…"`'
        )
    if deaths:
        yield (
            f"{counted(deaths, 'event')} of the live generation failed in this generation or had to wait"
            " behind a failed event:"
            f" redrive or drop them (`sluice dlq ls --projection {projection} --generation {generation}`), or"
            " correct the code, with a new revision"
        )


def compacted(configs: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Returns the topics whose log no longer holds every record."""
    return sorted(t for t, config in configs.items() if "compact" in config.get("cleanup.policy", ""))
