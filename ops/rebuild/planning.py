"""`sluice rebuild plan`: what a rebuild would read, and what stands in its way."""

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from db.checkpoints import Checkpoint, read_checkpoints
from db.generation_tables import TableFacts, read_table
from db.progress import read_epochs, read_reach
from db.projections import read_standing
from db.session import Session
from db.tables import generation_name
from ops.decisions import NotDone
from ops.printing import AsJson, as_json, table_of
from ops.rebuild.choosing import Projection, reached, require_declared
from ops.rebuild.preflight import (
    Source,
    checkpoint_refusals,
    compacted,
    first_offsets,
    source_refusals,
    table_refusals,
)
from ops.stack import StackUrls
from tasks.handlers import Registry
from tasks.log_reading import LogReader
from tasks.retention import read_topic_configs


@dataclass(frozen=True)
class Plan:
    """What would be done, and why not."""

    projection: str
    live: int
    revision: int
    live_revision: int
    table: TableFacts
    checkpoint: Checkpoint | None
    sources: list[Source]
    compacted_topics: list[str]
    refusals: list[str]

    @property
    def records(self) -> int:
        """Of all partitions."""
        return sum(source.records for source in self.sources)


FromCheckpoint = Annotated[
    str | None, typer.Option("--from", metavar="CHECKPOINT", help="Begin there, not at the log's beginning.")
]


def make_plan(
    session: Session, registry: Registry, urls: StackUrls, projection: str, from_checkpoint: str | None
) -> Plan:
    """Looks at Postgres and Kafka. Raises NotDone for what is no projection, or no checkpoint of it."""
    revision = require_declared(registry, projection)
    standing = read_standing(session)
    if projection not in standing.live:
        raise NotDone(f"projection {projection} has no row: run `sluice init`")
    live = standing.live[projection]
    reach = read_reach(session)
    topics = sorted({topic for topic, _ in reach})
    with closing(LogReader(urls.kafka_bootstrap_servers)) as reader:
        ranges = reader.read_ranges(topics)
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
        for there in [ranges.get((topic, number))]
    ]
    columns = [column.name for column in registry.projection_tables[projection].columns]
    table = read_table(session, generation_name(projection, live))
    refusals = [
        *table_refusals(projection, live, columns, table, read_table(session, projection)),
        *source_refusals(sources, list(registry.topics), topics),
    ]
    if checkpoint is not None:
        refusals += checkpoint_refusals(
            checkpoint, columns, read_table(session, checkpoint.table), read_epochs(session)
        )
    configs = read_topic_configs(urls.kafka_bootstrap_servers, topics) if topics else {}
    return Plan(
        projection,
        live,
        revision,
        standing.live_revisions[projection],
        table,
        checkpoint,
        sources,
        compacted(configs),
        refusals,
    )


def plan(projection: Projection, checkpoint: FromCheckpoint = None, as_json_: AsJson = False) -> None:
    """Say what a rebuild would read, how much it is, and what stands in its way. Changes nothing.

    Exit code 1 if it would be refused.
    """
    with reached() as (session, registry, urls):
        found = make_plan(session, registry, urls, projection, checkpoint)
    if as_json_:
        typer.echo(as_json(_document(found)))
    else:
        Console(width=160).print(*_lines(found), sep="\n")
    if found.refusals:
        raise typer.Exit(1)


def _require_checkpoint(session: Session, projection: str, name: str) -> Checkpoint:
    known = read_checkpoints(session, projection)
    found = [one for one in known if one.checkpoint == name]
    if not found:
        names = ", ".join(one.checkpoint for one in known) or "none"
        raise NotDone(f"{projection} has no checkpoint {name}; there are: {names}")
    return found[0]


def _document(found: Plan) -> dict[str, Any]:
    sources = [asdict(source) | {"records": source.records} for source in found.sources]
    return {
        **{n: value for n, value in vars(found).items() if n not in ("sources", "table", "checkpoint")},
        "from": found.checkpoint.checkpoint if found.checkpoint else None,
        "sources": sources,
        "records": found.records,
        "live_rows": found.table.estimated_rows,
        "live_bytes": found.table.bytes,
    }


def _lines(found: Plan) -> list[Any]:
    rows = [
        (f"{s.topic}[{s.partition}]", s.log_start, s.log_end, s.live_through, s.records)
        for s in found.sources
    ]
    lines: list[Any] = [
        f"{found.projection}: generation {found.live} is live, made by revision {found.live_revision};"
        f" the code has revision {found.revision}",
        f"about {found.table.estimated_rows:,} rows, {found.table.bytes / 2**20:,.1f} MiB: needed once more",
        table_of(("partition", "log start", "log end", "live through", "to read"), rows),
        f"{found.records:,} records to read",
    ]
    if found.revision == found.live_revision:
        lines.append("the revision is that of the live generation: nothing will differ unless it should not")
    if found.compacted_topics:
        lines.append(f"compacted, so no Increment may come of them: {', '.join(found.compacted_topics)}")
    return lines + [f"refused: {why}" for why in found.refusals]
