"""`sluice dedup`: changes how repeated events of a topic are recognised."""

from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.connection import connected, read_environment
from sluice.admin.decisions import decide
from sluice.admin.dedup import DedupChange, change_dedup, plan_dedup
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.db.records import DedupMode


def dedup(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic.")],
    mode: Annotated[
        str,
        typer.Argument(metavar="MODE", help="How to recognise a repeat: id, position or natural."),
    ],
    reason: Reason,
    patience: Annotated[float, typer.Option("--patience", metavar="SECONDS", help="Maximum wait.")] = 120.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Change how repeated events of a topic are recognised.

    Pauses the topics of the entity type until all records that were read
    are applied. All later records are judged by the new mode.

    Mode id: a repeat has the event id of an earlier event. Mode position:
    every record is a new event. Mode natural: repeats are not recognised;
    their versions are not newer, so they change nothing. The code must
    declare the mode natural.

    Refused while another generation (copy) of a projection is kept in sync
    with the live generation.

    Example: sluice dedup balances natural --reason "versions decide"
    """
    _, registry, _ = read_environment()
    with connected("sluice dedup") as session:
        done = plan_dedup(session, registry, topic, mode)
        if not dry_run:
            require_confirmation(_question(done), yes=yes)
            done = change_dedup(
                session,
                done,
                decide("dedup", reason),
                patience_seconds=patience,
                waiting=lambda reason: say(f"waiting: {reason}", err=True),
                warn=lambda sentence: say(f"sluice: {sentence}", err=True),
            )
    if as_json_:
        say_document({"dry_run": dry_run, **asdict(done)})
    else:
        say(*_lines(done, registry.topics[topic].dedup, dry_run=dry_run))


def _question(plan: DedupChange) -> str:
    asked = f'Topic {plan.topic} will have dedup="{plan.dedup}" instead of "{plan.before}".'
    if plan.before == DedupMode.NATURAL:
        asked += (
            " Events that were applied so far have no identities, so their repeats will count as new events."
        )
    return asked


def _lines(done: DedupChange, declared: str, *, dry_run: bool) -> list[str]:
    verb = "would have" if dry_run else "has"
    lines = [f'topic {done.topic} {verb} dedup="{done.dedup}" (before: "{done.before}")']
    if done.starts:
        starts = ", ".join(f"{number} from {offset}" for number, offset in sorted(done.starts.items()))
        lines.append(f"partitions: {starts}")
    if declared != done.dedup:
        lines.append(
            f'declare dedup="{done.dedup}" in code: workers and doctor report the difference until then'
        )
    return lines
