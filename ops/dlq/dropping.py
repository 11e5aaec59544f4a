"""`sluice dlq drop`: an event that failed is given up, and those behind it go on."""

from typing import Annotated

import typer

from db.whole_letters import count_behind
from ops.connecting import connected
from ops.decisions import DryRun, Reason, Yes, decide, require_meant
from ops.dlq.changes import BLOCKED_EXIT_CODE, EntityRedriven, drop_letter, redrive_rest, require_droppable
from ops.dlq.choosing import Id, redriving, require_letter
from ops.dlq.view import entity_of, place_of, redriven_documents, redriven_lines
from ops.printing import AsJson, as_json


def drop(
    reason: Reason,
    number: Id,
    no_redrive: Annotated[
        bool, typer.Option("--no-redrive", help="Leave those behind it waiting, and its entity parked.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Give up an event that failed, the first of its entity, and redrive those behind it.

    It will never be applied. Exit code 1 if one of those behind it failed, too.
    """
    done: list[EntityRedriven] = []
    with connected("sluice dlq") as session, redriving() as redriver:
        letter = require_letter(session, number)
        require_droppable(session, letter)
        behind = count_behind(session, letter)
        if not dry_run:
            require_meant(f"{place_of(letter)} of {entity_of(letter)} will never be applied.", yes=yes)
            drop_letter(session, redriver, letter, decide("dlq drop", reason))
            # With nothing behind it there is nothing to leave waiting: its entity is unparked.
            if letter.entity_key is not None and not (no_redrive and count_behind(session, letter)):
                done.append(redrive_rest(redriver, letter.entity, letter.entity_key))
    if as_json_:
        shown = {"dry_run": dry_run, "dropped": number, "behind": behind}
        typer.echo(as_json(shown | {"redriven": redriven_documents(done)}))
    else:
        would = "would be" if dry_run else "is"
        typer.echo(f"{number} {would} dropped: {place_of(letter)}, {behind} behind it")
        typer.echo("\n".join(redriven_lines(done)), nl=bool(done))
    if any(one.blocked_by for one in done):
        raise typer.Exit(BLOCKED_EXIT_CODE)
