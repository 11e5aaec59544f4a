"""The output of `sluice rebuild`: a plan, the generations, a report. Pure."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sluice.admin.rebuild.rebuild_plan import Plan
from sluice.cli.printing import equal_lines
from sluice.cli.tables import table_of
from sluice.db.projections.checkpoints import Checkpoint
from sluice.db.projections.comparison import KINDS, Report
from sluice.runtime.terminal_text import counted


def plan_document(found: Plan) -> dict[str, Any]:
    """Returns the plan for --json."""
    sources = [asdict(source) | {"records": source.records} for source in found.sources]
    return {
        **{n: value for n, value in vars(found).items() if n not in ("sources", "table", "checkpoint")},
        "from": found.checkpoint.checkpoint if found.checkpoint else None,
        "sources": sources,
        "records": found.records,
        "live_rows": found.table.estimated_rows,
        "live_bytes": found.table.bytes,
    }


def plan_lines(found: Plan) -> list[Any]:
    """Returns the plan as lines and a table of what is read."""
    rows = [
        (f"{s.topic}[{s.partition}]", s.log_start, s.log_end, s.live_through, s.records)
        for s in found.sources
    ]
    lines: list[Any] = [
        f"{found.projection}: generation {found.live} is live, of revision {found.live_revision};"
        f" the code has revision {found.revision}",
        f"about {counted(found.table.estimated_rows, 'row')}, {found.table.bytes / 2**20:,.1f} MiB: needed"
        " once more",
        table_of(("partition", "log start", "log end", "live through", "to read"), rows),
        f"{counted(found.records, 'record')} to read",
    ]
    if found.revision == found.live_revision:
        lines.append(
            "the code has the revision of the live generation, so any difference between the"
            " generations would be a fault"
        )
    if found.compacted_topics:
        topics = ", ".join(found.compacted_topics)
        lines.append(f"compaction deletes earlier events, so no event may yield an Increment in: {topics}")
    return lines + found.notes + [f"refused: {why}" for why in found.refusals]


def status_lines(found: Sequence[dict[str, Any]], checkpoints: Sequence[Checkpoint]) -> list[Any]:
    """Returns the generations and checkpoints as tables, with failure reasons and dead letters."""
    if not found:
        return ["there is no projection: `sluice init` creates the projections that the code declares"]
    headings = (
        "projection",
        "generation",
        "state",
        "revision",
        "done",
        "of",
        "lagging lanes",
        "passed over",
        "differs",
    )
    rows = [
        (
            one["projection"],
            one["generation"],
            one["state"] + (", paused" if one["paused"] else ""),
            one["revision"],
            one.get("done"),
            one.get("total"),
            one.get("lagging_lanes"),
            sum(one["passed_over"].values()) if "passed_over" in one else None,
            _report_cell(one.get("report")),
        )
        for one in found
    ]
    lines: list[Any] = [table_of(headings, rows)]
    for one in found:
        name = f"generation {one['generation']} of {one['projection']}"
        if one["failed_reason"]:
            lines.append(f"{name} {one['state']}: {one['failed_reason']}")
        died = one.get("died_in_generation", {"count": 0, "first": []})
        if died["count"]:
            lines.append(
                f"{name}: {counted(died['count'], 'event')} of the live generation failed or had to wait in"
                " it, the first of them:"
            )
            named = (
                (f"{d['topic']}:{d['partition']}:{d['offset']}", f"{d['error_class']}: {d['error_text']}")
                for d in died["first"]
            )
            lines += [f"  {line}" for line in equal_lines(named)]
    if checkpoints:
        kept = [(one.projection, one.checkpoint, one.generation, one.made_at) for one in checkpoints]
        lines.append(table_of(("projection", "checkpoint", "of generation", "made at"), kept))
    return lines


def _report_cell(report: dict[str, Any] | None) -> str | None:
    if report is None:
        return None
    rows = f"{counted(report['differing'], 'row')}"
    return f"{rows}, approved by {report['approved_by']}" if report["approved_by"] else rows


def report_document(report: Report) -> dict[str, Any]:
    """Returns the report for --json."""
    named = {name: value for name, value in report._asdict().items() if name != "report"}
    return named | report.report


def report_lines(report: Report) -> list[Any]:
    """Returns the report as lines and tables: counts, differences per column, samples."""
    found = report.report
    rows = found["rows"]
    lines: list[Any] = [
        f"{report.projection}: generation {report.generation} beside {report.against}, which is live:"
        f" {counted(rows['same'], 'row')} the same, {rows['differing']:,} differ,"
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
        lines.append(table_of(("sample", "key", "live", "new"), samples, folded=("live", "new")))
    passed = {why: count for why, count in found["passed_over"].items() if count}
    if passed:
        told = ", ".join(f"{count:,} {why}" for why, count in passed.items())
        lines.append(f"left out, because the live generation did not apply them either: {told}")
    if found["died_in_generation"]["count"]:
        lines.append(
            f"{counted(found['died_in_generation']['count'], 'event')} of the live generation failed or had"
            " to wait in it: no swap"
        )
    return lines


def _shown(row: dict[str, Any] | None, other: dict[str, Any] | None) -> str | None:
    """Returns the columns in which the rows differ; all columns if there is no other row."""
    if row is None:
        return None
    return ", ".join(
        f"{name}={value}" for name, value in row.items() if other is None or other[name] != value
    )
