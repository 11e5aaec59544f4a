"""`sluice dlq redrive|drop|resolve`: the commands with which an operator changes dead letters."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.progress import MofNCompleteColumn

from sluice.admin.connection import connected
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import documents
from sluice.admin.letters import choose_letters, entity_of, place_of, require_letter
from sluice.admin.projection_letters import find_letter
from sluice.admin.redrive import (
    MOST_ENTITIES,
    MOVED,
    EntityRedriven,
    RedrivePlan,
    drop_and_redrive,
    is_conflict,
    plan_redrive,
    redrive_all,
    redriving,
    require_droppable,
    require_redrivable,
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
    filters_of,
)
from sluice.cli.dlq_projection import (
    Generation,
    Projection,
    drop_letter_of_projection,
    letters_of,
    redrive_letters,
    require_projection,
)
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson, equal_lines
from sluice.cli.progress import progress_bar
from sluice.db.admin.letter_details import count_behind
from sluice.db.connection import Session

BLOCKED_EXIT_CODE = 1
LEFT_EXIT_CODE = 1


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
    projection: Projection = None,
    generation: Generation = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Apply failed events, and events that wait behind them, with the current code.

    The command redrives whole entities: if you select one letter (failed or
    waiting event) of an entity, all letters of this entity are applied in
    order, until one fails again. Other entities continue meanwhile. Without
    --state, --all selects each entity that has a dead letter, and each
    conflict. With --state waiting, --all selects each entity that has a
    waiting letter, for example an entity that an operator paused.
    --projection selects letters of that projection: they are applied only
    to one of its generations.

    Exit code 1 if an entity stays blocked. You may interrupt the command at any
    time and run it again.
    """
    require_projection(projection, generation)
    filters = filters_of(topic, entity, key, type_, error, state, older_than)
    chosen = choose_letters(ids, every, filters)
    with connected("sluice dlq") as session, redriving() as redrivers:
        if projection is not None or _are_of_projections(session, ids):
            of_projections = letters_of(chosen, projection, generation)
            redrive_letters(session, redrivers.projections, of_projections, reason, yes, dry_run, as_json_)
            return
        redriver = redrivers.plain
        for number in ids or ():
            require_redrivable(require_letter(session, number))
        plan = plan_redrive(session, chosen)
        # On stderr if stdout is one document: the operator must see the plan before the question.
        _print_plan(plan, err=as_json_)
        done: list[EntityRedriven] = []
        if plan.letters and not dry_run:
            require_confirmation("These letters will be redriven.", yes=yes)
            decision = decide("dlq redrive", reason)
            try:
                with _progress(plan.letters) as tried:
                    for one in redrive_all(session, redriver, plan, decision, tried=tried):
                        done.append(one)
            except OperationRefused:
                # The entities before the failed one are redriven already.
                say(*redriven_lines(done), err=as_json_)
                raise
    if as_json_:
        document = {
            "entities": documents(plan.entities),
            "without_entity": [n for n, _ in plan.keyless],
            "conflicts": [one.id for one in plan.conflicts],
        }
        shown = {"dry_run": dry_run} | document
        say_document(shown | {"redriven": redriven_documents(done)})
    else:
        say(*redriven_lines(done))
    if any(one.blocked_by for one in done):
        raise typer.Exit(BLOCKED_EXIT_CODE)


def _are_of_projections(session: Session, ids: Ids) -> bool:
    """Returns True if all ids are of projection letters. Raises OperationRefused for a mixture."""
    found = [find_letter(session, number) is not None for number in ids or ()]
    if any(found) and not all(found):
        raise OperationRefused(
            "some of the IDs are letters of projections, others are not; redrive them separately"
        )
    return any(found)


def _print_plan(plan: RedrivePlan, *, err: bool) -> None:
    lines = [f"{e.entity}/{e.entity_key}: {e.dead} dead, {e.waiting} waiting" for e in plan.entities]
    lines += [f"{entity}, {number}: dead, and its record names no entity" for number, entity in plan.keyless]
    lines += [f"{one.entity}/{one.entity_key}, {one.id}: a conflict" for one in plan.conflicts]
    if plan.is_cut:
        lines.append(f"there may be more than these {MOST_ENTITIES}: run it again afterwards")
    say(*(lines or ["no dead or waiting letters"]), err=err)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    with progress_bar("redriven", MofNCompleteColumn()) as progress:
        task = progress.add_task("", total=total)
        yield lambda letters: progress.advance(task, letters)


def drop(
    reason: Reason,
    number: Id,
    no_redrive: Annotated[
        bool,
        typer.Option(
            "--no-redrive",
            help="Do not redrive the events behind the dropped event: these and later events of the"
            " entity keep waiting.",
        ),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Drop the first failed event of an entity, and redrive the events behind it.

    The dropped event will never be applied, and rebuilds leave it out. To
    redrive an event means to apply it again with the current code. If the
    event failed only in one generation (copy) of a projection, it is dropped
    only for that generation. Exit code 1 if an event behind it fails.
    """
    done: list[EntityRedriven] = []
    with connected("sluice dlq") as session, redriving() as redrivers:
        projected = find_letter(session, number)
        if projected is not None:
            drop_letter_of_projection(
                session, redrivers.projections, projected, reason, no_redrive, yes, dry_run, as_json_
            )
            return
        redriver = redrivers.plain
        letter = require_letter(session, number)
        require_droppable(session, letter)
        behind = count_behind(session, letter)
        if not dry_run:
            require_confirmation(f"{place_of(letter)} of {entity_of(letter)} will never be applied.", yes=yes)
            decision = decide("dlq drop", reason)
            done = drop_and_redrive(session, redriver, letter, decision, no_redrive=no_redrive)
    if as_json_:
        shown = {"dry_run": dry_run, "dropped": number, "behind": behind}
        say_document(shown | {"redriven": redriven_documents(done)})
    else:
        would = "would be" if dry_run else "is"
        say(f"{number} {would} dropped: {place_of(letter)}, {behind} behind it")
        say(*redriven_lines(done))
    if any(one.blocked_by for one in done):
        raise typer.Exit(BLOCKED_EXIT_CODE)


def resolve(reason: Reason, ids: Ids = None, dry_run: DryRun = False, as_json_: AsJson = False) -> None:
    """Mark conflicts as seen.

    A conflict is an event with the same identity or version as an earlier
    event, but with other content. A conflict is not applied.
    Accepts only conflicts. Exit code 1 if a letter was not changed.
    """
    if not ids:
        raise OperationRefused("pass the IDs of the conflicts, as `sluice dlq ls` shows them")
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
        say_document(shown)
    else:
        would = "would be" if dry_run else "is"
        for letter in letters:
            if letter.id in resolved:
                say(f"{letter.id} {would} resolved: {place_of(letter)} of {entity_of(letter)}")
            else:
                why = MOVED if is_conflict(letter) else f"it is not an open conflict, but {letter.state}"
                say(f"{letter.id} is not changed: {why}")
    if left:
        raise typer.Exit(LEFT_EXIT_CODE)


def redriven_lines(done: Iterable[EntityRedriven]) -> list[str]:
    """Returns a line per entity with its outcomes; entities with equal outcomes share a line."""
    return equal_lines(
        (
            one.name,
            (
                ", ".join(f"{number} {outcome}" for outcome, number in sorted(one.outcomes.items()))
                or "no letter redriven"
            )
            + (f"; blocked by {one.blocked_by}" if one.blocked_by else "")
            + ("; unparked" if one.unparked else ""),
        )
        for one in done
    )


def redriven_documents(done: Iterable[EntityRedriven]) -> list[Mapping[str, Any]]:
    """Returns the outcomes per entity for --json."""
    return [
        {
            "entity": one.entity,
            "key": one.key,
            "id": one.letter_id,
            "outcomes": dict(one.outcomes),
            "blocked_by": one.blocked_by,
            "unparked": one.unparked,
        }
        for one in done
    ]
