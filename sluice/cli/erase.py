"""`sluice erase`: the command, and the texts that it prints before its question and at its end."""

from functools import partial
from typing import Annotated

import typer

from sluice.admin.connection import connected, read_environment
from sluice.admin.decisions import decide
from sluice.admin.erase import Erased
from sluice.admin.erase import erase as erase_entity
from sluice.admin.erased_logs import read_log_ends
from sluice.cli.confirmation import DryRun, Yes, require_confirmation
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson


def erase(
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="The entity type.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The entity: its record key.")],
    reason: Annotated[
        str, typer.Option("--reason", help="Reason; stored in sluice.audit with user and time, not the key.")
    ] = "erasure was requested",
    table: Annotated[
        list[str] | None,
        typer.Option("--table", help="Also delete the row of KEY in this table. May be repeated."),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(min=0, help="Seconds to wait for outgoing events to be sent and calls to end."),
    ] = 30.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Erase all data that Sluice stores about one entity. You cannot undo this.

    Deletes the row of KEY in each table where an event of ENTITY never
    writes the row of another key. If such a table is a projection, the
    command also deletes the rows in all its generations and checkpoints
    (copies of the projection). Deletes the letters (failed and waiting
    events) and the settled calls of the entity. Removes the key from all
    other places where Sluice stored it. If a failed event blocked the
    entity, the block ends: new events of the entity are applied. Prints a
    list of the places that the command does not search.

    The records of the entity that are in Kafka now are not applied again,
    not even by a rebuild or after `accept`. Newer records are applied.
    Sluice does not delete records in Kafka: delete them there.

    Refused while an outgoing event or a call of the entity is not settled.
    Run every worker with this version of Sluice before the first erasure.

    Example: sluice erase customer 4711 --reason "request 17" --dry-run
    """
    settings, registry, urls = read_environment()
    ends = partial(read_log_ends, urls.kafka_access, settings.share)
    decision = decide("erase", reason)
    report = partial(say, err=True)
    with connected("sluice erase") as session:
        run = partial(
            erase_entity, session, registry, ends, entity, key, decision,
            tables=table or (), patience_seconds=patience, waiting=report,
        )  # fmt: skip
        found = run(dry_run=True)
        if not dry_run:
            if not as_json_:
                report(*erased_lines(found, dry_run=True))
            require_confirmation("All this will be deleted and cannot be restored.", yes=yes)
            found = run()
    if as_json_:
        say_document({"dry_run": dry_run, **found.document()})
    else:
        say(*erased_lines(found, dry_run=dry_run))


def erased_lines(found: Erased, *, dry_run: bool) -> list[str]:
    """Returns the number of erased rows per table, and the places that are not searched."""
    rows = [f"  {table}: {count}" for table, count in sorted(found.rows.items()) if count]
    name = found.entity if dry_run else f"{found.entity} {found.erased}"
    said = "would be erased" if dry_run else "is erased"
    return [
        f"{name} {said}; rows:",
        *(rows or ["  none"]),
        "not searched:",
        *(f"  {sentence}" for sentence in found.not_searched),
    ]
