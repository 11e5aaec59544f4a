"""`sluice dlq export`: the letters as lines, page by page. Changes nothing."""

from collections.abc import Iterator

import typer

from db.letter_listing import Chosen
from db.session import Session
from db.whole_letters import WholeLetter, read_whole_letters
from ops.connecting import connected
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
    require_choice,
)
from ops.dlq.letter_lines import letter_line

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
