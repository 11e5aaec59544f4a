"""`sluice workers`: the command."""

import typer
from rich.console import Console

from sluice.admin.connection import connected
from sluice.admin.documents import as_json
from sluice.cli.printing import AsJson
from sluice.cli.workers_tables import lines_below, sharing_document, worker_table
from sluice.db.delivery.leases import read_workers


def workers(as_json_: AsJson = False) -> None:
    """Show the workers that share the queues: what each holds, since when, and what it does.

    Leases: how long it holds its queues, from the youngest to the oldest; each queue's with --json.
    Busy: the queue whose batch is in hand. What a worker tells of itself may be a second old.

    A worker with -Q shares nothing and is not seen here: ask Flower, or `sluice doctor`.
    """
    with connected("sluice workers") as session:
        found = read_workers(session)
    if as_json_:
        typer.echo(as_json(sharing_document(found)))
        return
    if found.workers:
        Console().print(worker_table(found), "")
    typer.echo("\n".join(lines_below(found)))
