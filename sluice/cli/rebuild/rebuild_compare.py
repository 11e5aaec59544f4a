"""`sluice rebuild diff` and `approve`: what a new generation changes, and that it is meant to."""

from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import as_json
from sluice.admin.rebuild import report as reporting
from sluice.admin.rebuild.generation_locks import require_generation
from sluice.admin.rebuild.plan import require_declared
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.printing import AsJson, table_of
from sluice.cli.rebuild.patience import until_possible
from sluice.cli.rebuild.rebuild_options import Number, Patience, Projection, reached
from sluice.db.connection import Session
from sluice.db.projections.comparison import KINDS, Comparison
from sluice.db.projections.generation_reports import Report, read_newest_report
from sluice.db.projections.generation_tables import read_table
from sluice.db.projections.generations import Generation
from sluice.tasks.fold.registry import Registry

COMPARABLE = ("ready", "retired")


def diff(
    projection: Projection,
    generation: Number = None,
    patience: Patience = 30.0,
    as_json_: AsJson = False,
) -> None:
    """Compare a generation with the live one, row by row, and keep the report.

    Both are read as of one moment at which they had applied the same events.
    Live traffic goes on. May be run any number of times; the last report counts.
    """
    with reached() as (session, registry, _):
        require_declared(registry, projection)
        found = require_generation(
            session, projection, generation, COMPARABLE, "only one that is ready can be compared"
        )
        report = until_possible(lambda: _compare(session, registry, found), patience)
    if as_json_:
        typer.echo(as_json(_document(report)))
    else:
        Console(width=160).print(*report_lines(report), sep="\n")


def approve(
    projection: Projection,
    reason: Reason,
    generation: Number = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Say that the differences of the last report are wanted. Without it a swap is refused."""
    with reached() as (session, _, _):
        found = require_generation(
            session, projection, generation, COMPARABLE, "only one that is ready can be approved"
        )
        report = read_newest_report(session, projection, found.generation)
        if report is None:
            raise OperationRefused(
                f"generation {found.generation} was never compared: `sluice rebuild diff {projection}`"
            )
        said = f"generation {found.generation} differs from {report.against} in {report.differing:,} rows"
        if not dry_run:
            require_confirmation(f"{said}; that is wanted.", yes=yes)
            reporting.approve(session, report, decide("rebuild approve", reason))
    if as_json_:
        typer.echo(as_json({"dry_run": dry_run, "report": report.id, "differing": report.differing}))
    else:
        typer.echo(f"{said}; {'it would be' if dry_run else 'it is'} approved")


def _compare(session: Session, registry: Registry, found: Generation) -> Report:
    rows = read_table(session, found.table).estimated_rows
    console = Console(stderr=True)
    columns = (TextColumn("rows compared"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=rows or None)

        def say(so_far: Comparison) -> None:
            progress.update(bar, completed=so_far.rows.total())

        return reporting.compare(session, registry, found, say=say)


def _document(report: Report) -> dict[str, Any]:
    named = {name: value for name, value in report._asdict().items() if name != "report"}
    return named | report.report


def report_lines(report: Report) -> list[Any]:
    """A report for people: counts, what differs per column, samples. Pure."""
    found = report.report
    rows = found["rows"]
    lines: list[Any] = [
        f"{report.projection}: generation {report.generation} beside {report.against}, which is live:"
        f" {rows['same']:,} rows the same, {rows['differing']:,} differ,"
        f" {rows['only_live']:,} only live, {rows['only_new']:,} only new"
    ]
    changed = {
        name: column
        for name, column in found["columns"].items()
        if column["differing"] or "sum_live" in column
    }
    lines.append(
        table_of(
            ("column", "rows that differ", "sum, live", "sum, new"),
            [(n, c["differing"], c.get("sum_live"), c.get("sum_new")) for n, c in sorted(changed.items())],
        )
    )
    samples = [
        (
            kind.replace("_", " "),
            sample["key"],
            _shown(sample["live"], sample["new"]),
            _shown(sample["new"], sample["live"]),
        )
        for kind in KINDS
        for sample in found["samples"][kind]
    ]
    if samples:
        lines.append(table_of(("sample", "key", "live", "new"), samples))
    passed = {why: count for why, count in found["passed_over"].items() if count}
    if passed:
        told = ", ".join(f"{count:,} {why}" for why, count in passed.items())
        lines.append(f"passed over, as live did not apply them either: {told}")
    if found["died_in_generation"]["count"]:
        lines.append(f"{found['died_in_generation']['count']} events that live applied died in it: no swap")
    return lines


def _shown(row: dict[str, Any] | None, other: dict[str, Any] | None) -> str | None:
    """The columns in which a row is not like the other; all, if there is no other."""
    if row is None:
        return None
    return ", ".join(
        f"{name}={value}" for name, value in row.items() if other is None or other[name] != value
    )
