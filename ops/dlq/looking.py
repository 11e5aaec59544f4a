"""`sluice dlq ls|show`: the letters as they are. Changes nothing."""

from typing import Annotated

import typer
from rich.console import Console

from db.letter_listing import Chosen, count_letters, read_letters
from db.whole_letters import count_behind, read_behind
from ops.connecting import connected
from ops.dlq.choosing import (
    Entity,
    ErrorClass,
    Id,
    Key,
    LetterState,
    OlderThan,
    Topic,
    Type,
    require_letter,
)
from ops.dlq.view import count_table, letter_document, letter_table
from ops.printing import AsJson, as_json, documents, field_lines

MOST_BEHIND = 10  # letters behind another one that are named


def ls(
    topic: Topic = None,
    entity: Entity = None,
    key: Key = None,
    type_: Type = None,
    error: ErrorClass = None,
    state: Annotated[LetterState, typer.Option("--state", help="Of the rows.")] = LetterState.DEAD,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows at most.")] = 50,
    after: Annotated[int, typer.Option(min=0, help="Go on behind this id.")] = 0,
    as_json_: AsJson = False,
) -> None:
    """Show events that failed: how many per topic, error and state, then each, oldest first.

    Behind: events of the same entity that wait until this one is applied or dropped.
    A conflict holds nothing up.
    """
    chosen = Chosen(None, topic, entity, key, type_, error, None, older_than)
    with connected("sluice dlq") as session:
        counts = count_letters(session, chosen)
        letters = read_letters(session, chosen._replace(state=state.value), after=after, limit=limit)
    following = letters[-1].id if len(letters) == limit else None
    if as_json_:
        shown = {"counts": documents(counts), "letters": documents(letters), "next_after": following}
        typer.echo(as_json(shown))
        return
    console = Console()
    if counts:
        console.print(count_table(counts), "")
    if letters:
        console.print(letter_table(letters))
    else:
        typer.echo(f"no such letter is {state.value}")
    if following is not None:
        typer.echo(f"\nthere may be more: --after {following}")


def show(number: Id, as_json_: AsJson = False) -> None:
    """Show one event that failed whole: the record, the error, what waits behind it, why it is parked."""
    with connected("sluice dlq") as session:
        letter = require_letter(session, number)
        behind = count_behind(session, letter)
        document = letter_document(letter, behind, read_behind(session, letter, limit=MOST_BEHIND))
    typer.echo(as_json(document) if as_json_ else "\n".join(field_lines(document)))
