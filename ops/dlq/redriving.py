"""`sluice dlq redrive`: events that failed are applied with the code as it is now."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from db.letter_listing import Chosen
from db.open_letters import OpenLetters, read_keyless, read_open_entities
from ops.connecting import connected
from ops.decisions import DryRun, NotDone, Reason, Yes, decide, require_meant
from ops.dlq.changes import BLOCKED_EXIT_CODE, EntityRedriven, redrive_entity, redrive_keyless
from ops.dlq.choosing import (
    Entity,
    ErrorClass,
    Every,
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
from ops.dlq.view import redriven_documents, redriven_lines
from ops.printing import AsJson, as_json, documents

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
            require_meant("These are redriven.", yes=yes)
            decision = decide("dlq redrive", reason)
            try:
                with _progress(sum(one.dead + one.waiting for one in found) + len(keyless)) as tried:
                    for one in found:
                        done.append(redrive_entity(session, redriver, one, decision, tried=tried))
                    for number, entity_type in keyless:
                        done.append(redrive_keyless(session, redriver, entity_type, number, decision))
                        tried(1)
            except NotDone:
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
