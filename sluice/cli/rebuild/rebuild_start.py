"""`sluice rebuild start`: a new generation, filled from the log by the rebuild workers."""

from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import as_json
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.plan import make_plan
from sluice.cli.confirmation import DryRun, Reason
from sluice.cli.printing import AsJson
from sluice.cli.rebuild.patience import PATIENCE_SECONDS, until_possible
from sluice.cli.rebuild.rebuild_options import Projection, reached
from sluice.cli.rebuild.rebuild_plan import FromCheckpoint
from sluice.cli.rebuild.rebuild_progress import watch
from sluice.db.connection import Session
from sluice.db.projections.generation_lag import read_lagging
from sluice.runtime.celery_options import REBUILD_QUEUE, REBUILD_TASK, apply_queue, make_celery
from sluice.runtime.settings import Settings, read_settings

Rate = Annotated[
    int | None, typer.Option("--rate", min=1, metavar="N", help="Events a second at most, of all workers.")
]


def start(
    projection: Projection,
    reason: Reason,
    rate: Rate = None,
    checkpoint: FromCheckpoint = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Show how it goes until it has met live traffic.")
    ] = True,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Begin a new generation of a projection, by the code as it is now.

    Workers on the queue `rebuild` fill it from the beginning of the log, or from a
    checkpoint on: then what came before it stays as the checkpoint has it. Readers
    see nothing of it, live traffic goes on, no event is emitted and no call made.
    Stopping this command stops nothing: `sluice rebuild status` tells the rest.
    """
    with reached() as (session, registry, urls):
        plan = make_plan(session, registry, urls, projection, checkpoint)
        if plan.refusals:
            raise OperationRefused("; ".join(plan.refusals))
        number = None
        if not dry_run:
            decision = decide("rebuild start", reason)
            number = until_possible(
                lambda: generation_changes.begin(
                    session,
                    registry,
                    projection,
                    rate=rate,
                    compacted_topics=plan.compacted_topics,
                    decision=decision,
                    checkpoint=plan.checkpoint,
                ),
                PATIENCE_SECONDS,
            )
            call_workers(session, read_settings(), projection, number)
        document = {
            "dry_run": dry_run,
            "projection": projection,
            "generation": number,
            "revision": plan.revision,
            "records": plan.records,
            "from": checkpoint,
        }
        if dry_run:
            text = (
                f"{projection} would get a generation of revision {plan.revision}: {plan.records:,} records"
            )
        else:
            text = f"generation {number} of {projection} is building: {plan.records:,} records to read"
        typer.echo(text, err=as_json_)
        if number is not None and wait:
            watch(session, projection, number)
            typer.echo(f"generation {number} is ready: `sluice rebuild diff {projection}`", err=as_json_)
    if as_json_:
        typer.echo(as_json(document))


def call_workers(session: Session, settings: Settings, projection: str, generation: int) -> None:
    """Tells the rebuild workers, which beat does anyway: so that it begins at once."""
    with make_celery(settings) as app:
        for what in read_lagging(session):
            if what[:2] == (projection, generation):
                queue = apply_queue(REBUILD_QUEUE)
                app.send_task(REBUILD_TASK, args=list(what), queue=queue, retry=False, ignore_result=True)
