"""Lists, redrives and drops letters of projections, for `sluice dlq`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer

from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import documents
from sluice.admin.projection_letters import (
    LettersRedriven,
    drop_letter,
    plan_projection_redrive,
    redrive_projection,
    redrive_rest,
    require_droppable_letter,
)
from sluice.cli.confirmation import require_confirmation
from sluice.cli.output import say, say_document
from sluice.cli.printing import say_age
from sluice.cli.tables import Table, table_of
from sluice.db.admin.letters import Chosen
from sluice.db.admin.projection_letters import ChosenLetters, HeldLetters, ProjectionLetterRow
from sluice.db.connection import Session
from sluice.db.records import Outcome
from sluice.tasks.projection_redrive import ProjectionRedriver

BLOCKED_EXIT_CODE = 1

Projection = Annotated[
    str | None, typer.Option("--projection", help="Only events that failed or wait in this projection.")
]
Generation = Annotated[
    int | None,
    typer.Option("--generation", min=1, help="Generation of --projection. Default: the live generation."),
]


def require_projection(projection: str | None, generation: int | None) -> None:
    """Raises OperationRefused for --generation without --projection."""
    if generation is not None and projection is None:
        raise OperationRefused("--generation is valid only with --projection")


def letters_of(chosen: Chosen, projection: str | None, generation: int | None) -> ChosenLetters:
    """Returns the same filters for the letters of generations."""
    return ChosenLetters(projection, generation, *chosen)


def projection_table(letters: Iterable[ProjectionLetterRow]) -> Table:
    """Returns a row per letter: generation, position in Kafka, entity, and error."""
    return table_of(
        ("id", "projection", "record", "entity", "type", "state", "attempts", "age", "error"),
        (
            (
                one.id,
                f"{one.projection}, generation {one.generation}",
                f"{one.topic}:{one.partition}:{one.offset}",
                one.entity if one.entity_key is None else f"{one.entity}/{one.entity_key}",
                one.type,
                f"{one.state} (conflict)" if one.outcome == Outcome.CONFLICT else one.state,
                one.attempts,
                say_age(one.age_seconds),
                f"{one.error_class}: {one.error_text}",
            )
            for one in letters
        ),
        folded=("error",),
        whole="`sluice dlq show ID --full`",
    )


def held_lines(plan: Sequence[HeldLetters]) -> list[str]:
    """Returns a line per entity with the letters that would be redriven."""
    return [f"{LettersRedriven(one).name}: {one.failed} failed, {one.waiting} waiting" for one in plan]


def redriven_letter_lines(done: Iterable[LettersRedriven]) -> list[str]:
    """Returns a line per entity with its outcomes."""
    return [
        f"{one.name}: "
        + (
            ", ".join(f"{number} {outcome}" for outcome, number in sorted(one.outcomes.items()))
            or "no letter redriven"
        )
        + (f"; blocked by {one.blocked_by}" if one.blocked_by else "")
        + ("; unparked" if one.unparked else "")
        for one in done
    ]


def redriven_letter_documents(done: Iterable[LettersRedriven]) -> list[Mapping[str, Any]]:
    """Returns the outcomes per entity for --json."""
    return [
        {
            "projection": one.held.projection,
            "generation": one.held.generation,
            "entity": one.held.entity,
            "key": one.held.entity_key,
            "outcomes": dict(one.outcomes),
            "blocked_by": one.blocked_by,
            "unparked": one.unparked,
        }
        for one in done
    ]


def redrive_letters(
    session: Session,
    redriver: ProjectionRedriver,
    chosen: ChosenLetters,
    reason: str,
    yes: bool,
    dry_run: bool,
    as_json_: bool,
) -> None:
    """Runs `sluice dlq redrive` for letters of projections. Exit code 1 if an entity stays blocked."""
    plan = plan_projection_redrive(session, chosen)
    say(*(held_lines(plan) or ["no dead or waiting letters"]), err=as_json_)
    done: list[LettersRedriven] = []
    if plan and not dry_run:
        require_confirmation("These letters will be redriven.", yes=yes)
        try:
            for one in redrive_projection(session, redriver, plan, decide("dlq redrive", reason)):
                done.append(one)
        except OperationRefused:
            say(*redriven_letter_lines(done), err=as_json_)
            raise
    if as_json_:
        shown = {"dry_run": dry_run, "entities": documents(plan)}
        say_document(shown | {"redriven": redriven_letter_documents(done)})
    else:
        say(*redriven_letter_lines(done))
    if any(one.blocked_by for one in done):
        raise typer.Exit(BLOCKED_EXIT_CODE)


def drop_letter_of_projection(
    session: Session,
    redriver: ProjectionRedriver,
    letter: ProjectionLetterRow,
    reason: str,
    no_redrive: bool,
    yes: bool,
    dry_run: bool,
    as_json_: bool,
) -> None:
    """Runs `sluice dlq drop` for a letter of a projection. Exit code 1 if an event behind it fails."""
    held = require_droppable_letter(session, letter)
    behind = held.failed + held.waiting - 1
    name = f"{letter.topic}:{letter.partition}:{letter.offset}"
    of = f"generation {letter.generation} of {letter.projection}"
    done: list[LettersRedriven] = []
    if not dry_run:
        require_confirmation(f"{name} will never be applied to {of}.", yes=yes)
        drop_letter(session, redriver, letter, decide("dlq drop", reason))
        if behind and not no_redrive:
            done = [redrive_rest(redriver, held)]
    if as_json_:
        shown = {"dry_run": dry_run, "dropped": letter.id, "behind": behind}
        say_document(shown | {"redriven": redriven_letter_documents(done)})
    else:
        would = "would be" if dry_run else "is"
        say(f"{letter.id} {would} dropped for {of}: {name}, {behind} behind it")
        say(*redriven_letter_lines(done))
    if any(one.blocked_by for one in done):
        raise typer.Exit(BLOCKED_EXIT_CODE)
