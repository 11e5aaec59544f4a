"""`sluice rebuild pause|resume`: pauses and resumes a rebuild, and resumes a stopped generation."""

from collections.abc import Sequence

from sluice.admin.connection import connected, read_environment
from sluice.admin.decisions import decide
from sluice.admin.projection_letters import LettersRedriven
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.resuming import find_stopped, require_resumable
from sluice.admin.rebuild.resuming import resume as resume_stopped
from sluice.admin.redrive import redriving
from sluice.admin.service_errors import ServiceFailed, reaching_services
from sluice.cli.confirmation import DryRun, Reason
from sluice.cli.dlq_projection import redriven_letter_documents, redriven_letter_lines
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.cli.rebuild_options import Number, Projection, Rate
from sluice.db.connection import Session
from sluice.db.projections.generations import Generation
from sluice.runtime.settings import Settings
from sluice.runtime.terminal_text import counted


def call_rebuild_workers(session: Session, settings: Settings, projection: str, generation: int) -> None:
    """Sends the generation's tasks. If Redis does not answer, reports that beat sends them later."""
    try:
        with reaching_services():
            generation_changes.call_workers(session, settings, projection, generation)
    except ServiceFailed as failed:
        say(f"the tasks of the rebuild cannot be sent now, so beat sends them later: {failed}", err=True)


def pause(
    projection: Projection,
    reason: Reason,
    generation: Number = None,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Pause a rebuild after its current chunk.

    In each partition and queue in which the generation has caught up with the
    live generation, the generation still receives new events.
    """
    _set_pace(projection, reason, generation, dry_run, as_json_, paused=True, rate=None)


def resume(
    projection: Projection,
    reason: Reason,
    rate: Rate = None,
    generation: Number = None,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Resume a rebuild, at --rate events a second, or as fast as possible.

    Also resumes a generation that stopped because its events failed or its
    table was broken. First the failed events of each entity (`sluice dlq ls
    --projection`) are applied again. Then the generation catches up from the
    log with the current code, and is kept in sync with the live generation.
    Requires a worker on the queue `rebuild`.
    """
    settings, _, urls = read_environment()
    with connected("sluice rebuild") as session:
        stopped = find_stopped(session, projection, generation)
        if stopped is not None:
            require_resumable(session, urls.kafka_access, settings.share, stopped)
            done: list[LettersRedriven] = []
            if not dry_run:
                decision = decide("rebuild resume", reason)
                with redriving() as redrivers:
                    done = list(resume_stopped(session, redrivers.projections, stopped, decision))
                call_rebuild_workers(session, settings, projection, stopped.generation)
            _print_resumed(stopped, done, dry_run=dry_run, as_json_=as_json_)
            return
    _set_pace(projection, reason, generation, dry_run, as_json_, paused=False, rate=rate)


def _print_resumed(
    generation: Generation, done: Sequence[LettersRedriven], *, dry_run: bool, as_json_: bool
) -> None:
    if as_json_:
        document = {
            "dry_run": dry_run,
            "projection": generation.projection,
            "generation": generation.generation,
            "redriven": redriven_letter_documents(done),
        }
        say_document(document)
        return
    say(*redriven_letter_lines(done))
    would = "would catch up" if dry_run else "catches up"
    say(
        f"generation {generation.generation} of {generation.projection} {would} from the log:"
        f" `sluice rebuild status {generation.projection}` shows its progress"
    )


def _set_pace(
    projection: str,
    reason: str,
    generation: int | None,
    dry_run: bool,
    as_json_: bool,
    *,
    paused: bool,
    rate: int | None,
) -> None:
    with connected("sluice rebuild") as session:
        found = generation_changes.require_rebuilt(session, projection, generation)
        if not dry_run:
            decision = decide(f"rebuild {'pause' if paused else 'resume'}", reason)
            kept = found.rate if paused else rate
            generation_changes.set_pace(session, found, paused=paused, rate=kept, decision=decision)
    if as_json_:
        document = {"dry_run": dry_run, "projection": projection, "generation": found.generation}
        say_document(document | {"paused": paused, "rate": rate})
    else:
        would = "would " if dry_run else ""
        how = f" at {counted(rate, 'event')} a second" if rate else ""
        verb = ("pause" if dry_run else "is paused") if paused else ("continue" if dry_run else "continues")
        say(f"the rebuild of generation {found.generation} of {projection} {would}{verb}{how}")
