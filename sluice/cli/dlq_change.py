"""`sluice dlq redrive|drop|resolve`: what an operator does with dead letters."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from sluice.admin.connection import connected
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import as_json, documents
from sluice.admin.redrive import (
    BLOCKED_EXIT_CODE,
    MOVED,
    EntityRedriven,
    drop_letter,
    is_conflict,
    redrive_entity,
    redrive_keyless,
    redrive_rest,
    require_droppable,
    resolve_letters,
)
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.dlq_options import (
    Entity,
    ErrorClass,
    Every,
    Id,
    Ids,
    Key,
    OlderThan,
    State,
    Topic,
    Type,
    redriving,
    require_choice,
    require_letter,
)
from sluice.cli.dlq_tables import entity_of, place_of, redriven_documents, redriven_lines
from sluice.cli.printing import AsJson
from sluice.db.admin.letters import Chosen
from sluice.db.admin.open_letters import OpenLetters, read_keyless, read_open_entities
from sluice.db.admin.whole_letters import count_behind

MOST_ENTITIES = 10_000  # of one run: run it again for the rest


def redrive(
    reason: Reason,
    ids: Ids = None,
    every: Every = False,
    topic: Topic = None,
    entity: Entity = None,
    key: Key = None,
    type_: Type = None,
    error: ErrorClass = None,
    state: State = None,
    older_than: OlderThan = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Apply events that failed again, and those that wait behind them, with the code as it is now.

    By entity: the letters chosen say which entities, and of each all its letters
    are redriven, in their order, until one fails again. Others flow all the while.
    --all means those with a dead letter; --state waiting, also those that an
    operator let wait.

    Exit code 1 if an entity stayed blocked. May be stopped anywhere and run again.
    """
    filters = Chosen(None, topic, entity, key, type_, error, state.value if state else None, older_than)
    chosen = require_choice(ids, every, filters)
    if every and state is None:
        # Where nothing is dead an operator let an entity wait: `sluice pause`, or `drop --no-redrive`.
        chosen = chosen._replace(state="dead")
    with connected("sluice dlq") as session, redriving() as redriver:
        for number in ids or ():
            require_letter(session, number)
        found = read_open_entities(session, chosen, limit=MOST_ENTITIES)
        keyless = read_keyless(session, chosen, limit=MOST_ENTITIES)
        # On stderr where stdout is to be one document: who is asked must know what is meant.
        _say_plan(found, keyless, err=as_json_)
        done: list[EntityRedriven] = []
        if (found or keyless) and not dry_run:
            require_confirmation("These are redriven.", yes=yes)
            decision = decide("dlq redrive", reason)
            try:
                with _progress(sum(one.dead + one.waiting for one in found) + len(keyless)) as tried:
                    for one in found:
                        done.append(redrive_entity(session, redriver, one, decision, tried=tried))
                    for number, entity_type in keyless:
                        done.append(redrive_keyless(session, redriver, entity_type, number, decision))
                        tried(1)
            except OperationRefused:
                # What came before the broken one is done all the same.
                typer.echo("\n".join(redriven_lines(done)), nl=bool(done), err=as_json_)
                raise
    if as_json_:
        plan = {"entities": documents(found), "without_entity": [number for number, _ in keyless]}
        shown = {"dry_run": dry_run} | plan
        typer.echo(as_json(shown | {"redriven": redriven_documents(done)}))
    else:
        typer.echo("\n".join(redriven_lines(done)), nl=bool(done))
    if any(one.blocked_by for one in done):
        raise typer.Exit(BLOCKED_EXIT_CODE)


def _say_plan(entities: Sequence[OpenLetters], keyless: Sequence[tuple[int, str]], *, err: bool) -> None:
    lines = [f"{one.entity}/{one.entity_key}: {one.dead} dead, {one.waiting} waiting" for one in entities]
    lines += [f"{entity}, {number}: dead, names no entity" for number, entity in keyless]
    if MOST_ENTITIES in (len(entities), len(keyless)):
        lines.append(f"there may be more than these {MOST_ENTITIES}: run it again afterwards")
    typer.echo("\n".join(lines or ["no such letter is dead or waiting"]), err=err)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("redriven"), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda letters: progress.advance(task, letters)


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
            require_confirmation(f"{place_of(letter)} of {entity_of(letter)} will never be applied.", yes=yes)
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


LEFT_EXIT_CODE = 1


def resolve(reason: Reason, ids: Ids = None, dry_run: DryRun = False, as_json_: AsJson = False) -> None:
    """Mark conflicts as seen: two events claimed one identity or one version, and the first one counts.

    Only conflicts. Exit code 1 if a letter was left as it was.
    """
    if not ids:
        raise OperationRefused("name the conflicts by their IDs, as `sluice dlq ls` shows them")
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
