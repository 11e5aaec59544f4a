"""`sluice rebuild plan`: what a rebuild would read, and what stands in its way."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from sluice.admin.documents import as_json
from sluice.admin.rebuild.plan import Plan, make_plan
from sluice.cli.printing import AsJson, table_of
from sluice.cli.rebuild.rebuild_options import Projection, reached

FromCheckpoint = Annotated[
    str | None, typer.Option("--from", metavar="CHECKPOINT", help="Begin there, not at the log's beginning.")
]


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
