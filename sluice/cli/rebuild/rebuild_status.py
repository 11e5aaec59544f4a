"""`sluice rebuild status`: every generation there is, and how far it is."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from sluice.admin.documents import as_json
from sluice.admin.rebuild.progress import reached_of
from sluice.cli.printing import AsJson, table_of
from sluice.cli.rebuild.rebuild_options import reached
from sluice.db.connection import Session
from sluice.db.projections.checkpoints import read_checkpoints
from sluice.db.projections.generation_deaths import read_deaths
from sluice.db.projections.generation_lag import read_lane_states
from sluice.db.projections.generation_lanes import FOLDED, read_passed
from sluice.db.projections.generation_reports import read_newest_report
from sluice.db.projections.generations import Generation, read_generations

MOST_DEATHS = 20


def status(
    projection: Annotated[str | None, typer.Argument(metavar="[NAME]", help="All without.")] = None,
    as_json_: AsJson = False,
) -> None:
    """Show the generations of projections: which is live, and how far the others are."""
    with reached() as (session, _, _):
        found = [_document(session, one) for one in read_generations(session, projection)]
        checkpoints = read_checkpoints(session, projection)
    if as_json_:
        typer.echo(as_json(found))
        return
    lines = _lines(found)
    if checkpoints:
        rows = [(one.projection, one.checkpoint, one.generation, one.made_at) for one in checkpoints]
        lines.append(table_of(("projection", "checkpoint", "of generation", "made at"), rows))
    Console(width=160).print(*lines, sep="\n")


def _document(session: Session, one: Generation) -> dict[str, Any]:
    document: dict[str, Any] = one._asdict()
    if one.state == "live":
        return document
    passed = read_passed(session, one.projection, one.generation)
    deaths, first = read_deaths(session, one.projection, one.generation, MOST_DEATHS)
    report = read_newest_report(session, one.projection, one.generation)
    where = reached_of(read_lane_states(session, one.projection, one.generation))
    return document | {
        "done": where.done,
        "total": where.total,
        "lagging_lanes": where.lagging_lanes,
        "folded": passed.pop(FOLDED),
        "passed_over": passed,
        "died_in_generation": {"count": deaths, "first": [death._asdict() for death in first]},
        "report": report
        and {
            "against": report.against,
            "made_at": report.made_at,
            "differing": report.differing,
            "approved_by": report.approved_by,
        },
    }


def _lines(found: Sequence[dict[str, Any]]) -> list[Any]:
    if not found:
        return ["there is no projection: `sluice init` makes those that the code declares"]
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
            _report(one.get("report")),
        )
        for one in found
    ]
    lines: list[Any] = [table_of(headings, rows)]
    for one in found:
        name = f"generation {one['generation']} of {one['projection']}"
        if one["failed_reason"]:
            lines.append(f"{name} failed: {one['failed_reason']}")
        died = one.get("died_in_generation", {"count": 0, "first": []})
        if died["count"]:
            lines.append(f"{name}: {died['count']} events that live applied died in it, the first of them:")
            lines += [
                f"  {d['topic']}:{d['partition']}:{d['offset']} {d['error_class']}: {d['error_text']}"
                for d in died["first"]
            ]
    return lines


def _report(report: dict[str, Any] | None) -> str | None:
    if report is None:
        return None
    rows = f"{report['differing']:,} rows"
    return f"{rows}, approved by {report['approved_by']}" if report["approved_by"] else rows
