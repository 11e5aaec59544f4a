"""Compares a generation with the live generation and stores the report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.rebuild.generation_locks import require_generation, require_lockstep
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.connection import Session
from sluice.db.projections import comparison, generation_deaths, generation_lanes, generations
from sluice.db.projections.comparison import KINDS, ONE_SNAPSHOT, PATIENCE, Comparer, Comparison
from sluice.db.projections.generation_deaths import GenerationDeath
from sluice.db.projections.generation_lanes import FOLDED
from sluice.db.projections.generations import Generation
from sluice.db.records import GenerationState
from sluice.db.tables import generation_name
from sluice.tasks.fold.registry import Registry


def report_document(
    found: Comparison, passed: Mapping[str, int], deaths: tuple[int, Sequence[GenerationDeath]]
) -> dict[str, Any]:
    """Returns the document that is stored, and that --json prints: counts, columns, samples, and
    events that were left out.
    """
    return {
        "rows": {kind: found.rows[kind] for kind in ("same", *KINDS)},
        "columns": {
            name: {"differing": found.differing[name], **_sums(found, name)}
            for name in found.differing.keys() | found.sums.keys()
        },
        "samples": found.samples,
        "folded": passed[FOLDED],
        "passed_over": {why: count for why, count in passed.items() if why != FOLDED},
        "died_in_generation": {"count": deaths[0], "first": [death._asdict() for death in deaths[1]]},
    }


def _sums(found: Comparison, name: str) -> dict[str, str]:
    if name not in found.sums:
        return {}
    live, new = found.sums[name]
    return {"sum_live": f"{live:f}", "sum_new": f"{new:f}"}


SHOWN_DEATHS = 20
COMPARABLE = (GenerationState.READY, GenerationState.RETIRED)


def require_comparable(session: Session, projection: str, number: int | None, *, verb: str) -> Generation:
    """Returns the generation that is to be compared or approved. Raises OperationRefused."""
    what = f"only a ready generation can be {verb}"
    return require_generation(session, projection, number, COMPARABLE, what)


def require_report(session: Session, generation: Generation) -> comparison.Report:
    """Returns the generation's newest report. Raises OperationRefused if it was never compared."""
    report = comparison.read_newest_report(session, generation.projection, generation.generation)
    if report is None:
        raise OperationRefused(
            f"generation {generation.generation} was never compared: run"
            f" `sluice rebuild diff {generation.projection}`"
        )
    return report


def compare(
    session: Session,
    registry: Registry,
    generation: Generation,
    *,
    compared: Callable[[Comparison], object] = lambda _: None,
) -> comparison.Report:
    """Compares the generation with the live generation as of one moment, and stores the report.
    Raises Behind.

    Passes the counts so far to `compared` after each chunk.
    """
    projection = generation.projection
    with session.transaction(ONE_SNAPSHOT):
        session.command(PATIENCE)
        live = generations.read_projection_snapshot(session).live[projection]
        require_lockstep(session, projection, generation.generation)
        comparer = Comparer(
            session,
            registry.projection_tables[projection],
            generation_name(projection, live),
            generation.table,
        )
        found = Comparison()
        for found in comparer.run():
            compared(found)
        passed = generation_lanes.read_passed(session, projection, generation.generation)
        deaths = generation_deaths.read_deaths(session, projection, generation.generation, SHOWN_DEATHS)
        document = report_document(found, passed, deaths)
    comparison.insert_report(
        session, projection, generation.generation, live, found.differences, as_json(document)
    )
    stored = comparison.read_newest_report(session, projection, generation.generation)
    assert stored is not None
    return stored


def approve(session: Session, report: comparison.Report, decision: Decision) -> None:
    """Approves the differences of a report. Idempotent."""
    with session.transaction():
        if comparison.approve_report(session, report.id, decision.actor):
            details = {"generation": report.generation, "report": report.id, "differing": report.differing}
            insert_audits(session, decision, [(report.projection, as_json(details))])
