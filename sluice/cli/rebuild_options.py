"""The arguments and options that several commands of `sluice rebuild` share."""

from typing import Annotated

import typer

from sluice.admin.rebuild.older_snapshots import OlderSnapshots, SnapshotWait
from sluice.cli.output import say
from sluice.db.connection import Session
from sluice.db.projections.generations import Generation

Projection = Annotated[str, typer.Argument(metavar="NAME", help="A projection.")]
Number = Annotated[
    int | None,
    typer.Option(
        "--generation",
        metavar="N",
        help="Number of the generation. Required if several generations fit the command.",
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        "--patience",
        metavar="SECONDS",
        help="Maximum time to wait for locks, for the end of older transactions, and until the"
        " generation has applied the same events as the live generation.",
    ),
]
FromCheckpoint = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="CHECKPOINT",
        help="Begin with the rows of this checkpoint, not at the beginning of the log.",
    ),
]
DEFAULT_PATIENCE_SECONDS = 30.0


def report_waiting(reason: str) -> None:
    """Prints why an operation waits, on stderr, because programs may parse stdout as JSON."""
    say(f"waiting: {reason}", err=True)


Rate = Annotated[
    int | None, typer.Option("--rate", min=1, metavar="N", help="Maximum events per second of all workers.")
]


def report_older(session: Session, snapshots: SnapshotWait, generation: Generation) -> None:
    """Prints the older transactions that a swap would wait for now, if any."""
    try:
        snapshots.require(session, generation.projection, generation.generation)
    except OlderSnapshots as older:
        say(f"would wait: {older}", err=True)
