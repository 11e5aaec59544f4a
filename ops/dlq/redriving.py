"""`sluice dlq redrive|drop`: events that failed are applied with the code as it is now, or given up."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from db.letter_listing import Chosen
from db.open_letters import OpenLetters, read_open_entities
from db.session import BATCH_PLANS, Session
from db.whole_letters import count_behind
from ops.addresses import read_addresses
from ops.decisions import DryRun, Reason, Yes, decide, require_meant
from ops.dlq.changes import EntityRedriven, drop_letter, redrive_entity, redrive_rest, require_droppable
from ops.dlq.choosing import (
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
    connected,
    require_choice,
    require_letter,
)
from ops.dlq.view import entity_of, place_of, redriven_documents, redriven_lines
from ops.printing import as_json, documents
from ops.stack.cli import AsJson
from tasks.handlers import collect_handlers
from tasks.redrive import Redriver
from tasks.settings import read_settings

BLOCKED_EXIT_CODE = 1
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
    with connected() as session, _redriving() as redriver:
        found = read_open_entities(session, chosen, limit=MOST_ENTITIES)
        keyed = [(one, one.entity_key) for one in found if one.entity_key is not None]
        keyless = sum(one.dead for one in found if one.entity_key is None)
        # On stderr where stdout is to be one document: who is asked must know what is meant.
        _say_plan([one for one, _ in keyed], keyless, err=as_json_)
        done: list[EntityRedriven] = []
        if keyed and not dry_run:
            require_meant(f"{len(keyed)} entities are redriven.", yes=yes)
            decision = decide("dlq redrive", reason)
            with _progress(sum(one.dead + one.waiting for one, _ in keyed)) as tried:
                for one, name in keyed:
                    done.append(redrive_entity(session, redriver, one, name, decision, tried=tried))
    if as_json_:
        plan = documents([one for one, _ in keyed])
        shown = {"dry_run": dry_run, "entities": plan, "without_entity": keyless}
        typer.echo(as_json(shown | {"redriven": redriven_documents(done)}))
    else:
        typer.echo("\n".join(redriven_lines(done)), nl=bool(done))
    if any(one.blocked_by for one in done):
        raise typer.Exit(BLOCKED_EXIT_CODE)


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
    with connected() as session, _redriving() as redriver:
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


@contextmanager
def _redriving() -> Iterator[Redriver]:
    settings = read_settings()
    registry = collect_handlers(settings.handlers)
    url = read_addresses(settings).database_url
    # A session of its own: the plans that suit a batch do not suit a look.
    with closing(Session(url, application_name="sluice redrive", plans=BATCH_PLANS)) as session:
        yield Redriver(session, registry)


def _say_plan(entities: Sequence[OpenLetters], keyless: int, *, err: bool) -> None:
    lines = [f"{one.entity}/{one.entity_key}: {one.dead} dead, {one.waiting} waiting" for one in entities]
    if not entities:
        lines.append("no such letter is dead or waiting")
    if keyless:
        lines.append(f"{keyless} letters name no entity: they cannot be redriven yet, only dropped")
    typer.echo("\n".join(lines), err=err)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("redriven"), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda letters: progress.advance(task, letters)
