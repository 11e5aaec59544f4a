"""`sluice dlq resolve`: conflicts are marked as seen."""

import typer

from ops.connecting import connected
from ops.decisions import DryRun, NotDone, Reason, decide
from ops.dlq.changes import MOVED, is_conflict, resolve_letters
from ops.dlq.choosing import Ids, require_letter
from ops.dlq.view import entity_of, place_of
from ops.printing import AsJson, as_json

LEFT_EXIT_CODE = 1


def resolve(reason: Reason, ids: Ids = None, dry_run: DryRun = False, as_json_: AsJson = False) -> None:
    """Mark conflicts as seen: two events claimed one identity or one version, and the first one counts.

    Only conflicts. Exit code 1 if a letter was left as it was.
    """
    if not ids:
        raise NotDone("name the conflicts by their IDs, as `sluice dlq ls` shows them")
    with connected("sluice dlq") as session:
        letters = [require_letter(session, number) for number in dict.fromkeys(ids)]
        conflicts = [letter for letter in letters if is_conflict(letter)]
        if dry_run:
            resolved = {letter.id for letter in conflicts}
        else:
            resolved = resolve_letters(session, conflicts, decide("dlq resolve", reason))
    left = [letter for letter in letters if letter.id not in resolved]
    if as_json_:
        shown = {"dry_run": dry_run, "resolved": sorted(resolved), "left": [letter.id for letter in left]}
        typer.echo(as_json(shown))
    else:
        would = "would be" if dry_run else "is"
        for letter in letters:
            if letter.id in resolved:
                typer.echo(f"{letter.id} {would} resolved: {place_of(letter)} of {entity_of(letter)}")
            else:
                why = MOVED if is_conflict(letter) else f"no open conflict, but {letter.state}"
                typer.echo(f"{letter.id}, left as it is: {why}")
    if left:
        raise typer.Exit(LEFT_EXIT_CODE)
