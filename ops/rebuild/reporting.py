"""Comparing a generation with the live one, and keeping what was found."""

from collections.abc import Callable

from db import generation_deaths, generation_lanes, projections, reports
from db.audit import Decision, insert_audits
from db.comparing import ONE_SNAPSHOT, PATIENCE, Comparer, Comparison
from db.projections import Generation
from db.session import Session
from db.tables import generation_name
from ops.printing import as_json
from ops.rebuild.holding import require_lockstep
from ops.rebuild.report import report_document
from tasks.handlers import Registry

SHOWN_DEATHS = 20


def compare(
    session: Session,
    registry: Registry,
    generation: Generation,
    *,
    say: Callable[[Comparison], None] = lambda _: None,
) -> reports.Report:
    """Compares with the live generation at one cut, and stores what was found. Raises Behind."""
    projection = generation.projection
    with session.transaction(ONE_SNAPSHOT):
        session.command(PATIENCE)
        live = projections.read_standing(session).live[projection]
        require_lockstep(session, projection, generation.generation)
        comparer = Comparer(
            session,
            registry.projection_tables[projection],
            generation_name(projection, live),
            generation.table,
        )
        found = Comparison()
        for found in comparer.run():
            say(found)
        passed = generation_lanes.read_passed(session, projection, generation.generation)
        deaths = generation_deaths.read_deaths(session, projection, generation.generation, SHOWN_DEATHS)
        document = report_document(found, passed, deaths)
    reports.insert_report(
        session, projection, generation.generation, live, found.differences, as_json(document)
    )
    stored = reports.read_newest_report(session, projection, generation.generation)
    assert stored is not None
    return stored


def approve(session: Session, report: reports.Report, decision: Decision) -> None:
    """The differences are wanted. May run twice."""
    with session.transaction():
        if reports.approve_report(session, report.id, decision.actor):
            details = {"generation": report.generation, "report": report.id, "differing": report.differing}
            insert_audits(session, decision, [(report.projection, as_json(details))])
