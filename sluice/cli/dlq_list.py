"""`sluice dlq ls|show|export`: reads dead letters. Changes nothing."""

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from sluice.admin.connection import connected
from sluice.admin.documents import as_json, documents
from sluice.cli.dlq_options import (
    Entity,
    ErrorClass,
    Every,
    Id,
    Ids,
    Key,
    LetterState,
    OlderThan,
    State,
    Topic,
    Type,
    require_choice,
    require_letter,
)
from sluice.cli.dlq_tables import count_table, letter_document, letter_table
from sluice.cli.letter_lines import letter_line
from sluice.cli.printing import AsJson, field_lines
from sluice.db.admin.letters import Chosen, count_letters, read_letters
from sluice.db.admin.whole_letters import WholeLetter, count_behind, read_behind, read_whole_letters
from sluice.db.connection import Session

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


PAGE_LETTERS = 20  # each may be as large as a record can be


def export(
    ids: Ids = None,
    every: Every = False,
    topic: Topic = None,
    entity: Entity = None,
    key: Key = None,
    type_: Type = None,
    error: ErrorClass = None,
    state: State = None,
    older_than: OlderThan = None,
) -> None:
    """Print events that failed as lines of JSON, oldest first, as `sluice send` reads them.

    A record whose value is no JSON, or whose key or headers a line cannot say,
    has key_base64, value_base64 and headers_base64 instead, which send refuses.

    Example: sluice dlq export --all --topic orders > orders.jsonl
    """
    filters = Chosen(None, topic, entity, key, type_, error, state.value if state else None, older_than)
    chosen = require_choice(ids, every, filters)
    with connected("sluice dlq") as session:
        for letter in read_all(session, chosen):
            typer.echo(letter_line(letter))


def read_all(session: Session, chosen: Chosen) -> Iterator[WholeLetter]:
    """All chosen letters, a page in memory at a time; ends, since a letter keeps its id."""
    after = 0
    while page := read_whole_letters(session, chosen, after=after, limit=PAGE_LETTERS):
        yield from page
        after = page[-1].id
