"""`sluice rebuild checkpoint`: the live generation kept as it is now, to begin another one there."""

import re
from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import as_json
from sluice.admin.rebuild.checkpoints import drop_checkpoint, make_checkpoint
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.printing import AsJson
from sluice.cli.rebuild.rebuild_options import Projection, reached
from sluice.db.projections.checkpoints import MAX_NAME_BYTES, read_checkpoints
from sluice.db.projections.generations import read_projection_snapshot

_NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_NAME_BYTES - 1}}}")


def checkpoint(
    projection: Projection,
    name: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Its name: small letters, digits, _.")],
    reason: Reason,
    drop: Annotated[bool, typer.Option("--drop", help="Drop it instead.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Keep a copy of the live generation as of one moment, with where live was then.

    `rebuild start --from CHECKPOINT` begins there: the way to compute the last
    weeks anew when the topics no longer hold the beginning. Needs as much room as
    the generation. Live traffic goes on.
    """
    if not _NAME.fullmatch(name):
        raise OperationRefused(
            f"{name!r}: small letters, digits and _, {MAX_NAME_BYTES} at most, a letter first"
        )
    with reached() as (session, _, _):
        if projection not in read_projection_snapshot(session).live:
            raise OperationRefused(f"there is no projection {projection}: `sluice rebuild status` lists them")
        there = name in {one.checkpoint for one in read_checkpoints(session, projection)}
        if drop and not there:
            raise OperationRefused(f"{projection} has no checkpoint {name}")
        if not drop and there:
            raise OperationRefused(
                f"{projection} has a checkpoint {name} already: take another name, or --drop it"
            )
        if not dry_run and drop:
            require_confirmation(f"Checkpoint {name} of {projection} is dropped.", yes=yes)
            drop_checkpoint(session, projection, name, decide("rebuild checkpoint --drop", reason))
        elif not dry_run:
            make_checkpoint(session, projection, name, decide("rebuild checkpoint", reason))
    if as_json_:
        typer.echo(as_json({"dry_run": dry_run, "projection": projection, "checkpoint": name, "drop": drop}))
    else:
        verb = "dropped" if drop else "kept"
        typer.echo(f"checkpoint {name} of {projection}: {'would be ' if dry_run else ''}{verb}")
