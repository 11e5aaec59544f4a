"""`sluice dlq`: the group of commands, and the commands that only read: ls, show, export."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from sluice.admin.connection import connected
from sluice.admin.documents import documents
from sluice.admin.event_lines import letter_line
from sluice.admin.letters import (
    choose_letters,
    entity_of,
    place_of,
    projection_letter_document,
    read_all_letters,
    read_letter_document,
    require_letter,
)
from sluice.cli.dlq_change import drop, redrive, resolve
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
    letters_of,
    projection_table,
    require_projection,
)
from sluice.cli.output import print_refusal, say, say_document, say_record
from sluice.cli.printing import MOST_REASONS, AsJson, Full, say_age, say_fields
from sluice.cli.tables import Table, table_of
from sluice.db.admin.letter_details import read_whole_projection_letter
from sluice.db.admin.letters import (
    LetterCount,
    LetterReason,
    ListedLetter,
    count_letter_reasons,
    count_letters,
    read_letters,
)
from sluice.db.admin.projection_letters import read_projection_letters
from sluice.db.records import LetterState, Outcome


def ls(
    topic: Topic = None,
    entity: Entity = None,
    key: Key = None,
    type_: Type = None,
    error: ErrorClass = None,
    state: Annotated[LetterState, typer.Option("--state", help="Filter by state.")] = LetterState.DEAD,
    older_than: OlderThan = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of rows.")] = 50,
    after: Annotated[int, typer.Option(min=0, help="Show only rows that follow the row with this id.")] = 0,
    projection: Projection = None,
    generation: Generation = None,
    as_json_: AsJson = False,
) -> None:
    """Show failed events: first their number per topic, error and state, then a row per event, newest first.

    A reason that several events share is printed once, with the number of
    these events.

    Behind: the number of later events of the same entity. They wait until this
    event is applied or dropped. No event waits behind a conflict (an event with
    the identity or version of an earlier event, but with other content). A
    second list shows events that failed only in one projection: later events of
    the entity wait only in that projection.
    """
    require_projection(projection, generation)
    chosen = filters_of(topic, entity, key, type_, error, None, older_than)
    listed = chosen._replace(state=state.value)
    with connected("sluice dlq", report_refusal=print_refusal) as session:
        own = projection is None
        counts = count_letters(session, chosen) if own else []
        letters = read_letters(session, listed, after=after, limit=limit) if own else []
        reasons = count_letter_reasons(session, listed, limit=MOST_REASONS) if own and not as_json_ else []
        of_projections = letters_of(listed, projection, generation)
        projected = read_projection_letters(session, of_projections, after=after, limit=limit)
    last = [page[-1].id for page in (letters, projected) if len(page) == limit]
    following = max(last, default=None)
    if as_json_:
        shown = {"counts": documents(counts), "letters": documents(letters)}
        say_document(shown | {"projection_letters": documents(projected), "next_after": following})
        return
    if counts:
        say(count_table(counts), "")
    if reasons:
        say(reason_table(reasons), "")
    if letters:
        say(letter_table(letters, reasons))
    if projected:
        say(projection_table(projected))
    if not letters and not projected:
        say(f"no {state.value} letters")
    if following is not None:
        say("", f"there may be more rows; to see them, pass --after {following}")


def show(number: Id, full: Full = False, as_json_: AsJson = False) -> None:
    """Show one failed event: its record, its error, and the events that wait behind it.

    The field `parked` is the reason why later events of the same entity wait.
    """
    with connected("sluice dlq", report_refusal=print_refusal) as session:
        projected = read_whole_projection_letter(session, number)
        if projected is None:
            document = read_letter_document(session, require_letter(session, number))
        else:
            document = projection_letter_document(projected)
    if as_json_:
        say_document(document)
        return
    traceback = document.pop("traceback", "")
    say_fields(document, full=full)
    for line in traceback.splitlines():
        say(line)


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
    """Print failed events as JSON lines, oldest first, in the format of `sluice send`.

    A record that is not JSON, or whose key or headers do not fit the
    format, has key_base64, value_base64 and headers_base64 instead. `sluice
    send` refuses such a line. A record that is not stored whole also has
    these fields, and a field `flaw`, which names the missing part.

    Example: sluice dlq export --all --topic orders > orders.jsonl
    """
    chosen = choose_letters(ids, every, filters_of(topic, entity, key, type_, error, state, older_than))
    with connected("sluice dlq", report_refusal=print_refusal) as session:
        for letter in read_all_letters(session, chosen):
            say_record(letter_line(letter))


def count_table(counts: Iterable[LetterCount]) -> Table:
    """Returns a row per topic, error class and state."""
    return table_of(
        ("topic", "error", "state", "letters"),
        ((one.topic, one.error_class, _state_of(one), one.letters) for one in counts),
    )


def reason_table(reasons: Iterable[LetterReason]) -> Table:
    """Returns a row per reason that several letters share: their number, and the newest letter."""
    return table_of(
        ("letters", "topic", "newest id", "reason"),
        (
            (one.letters, one.topic, one.newest_id, f"{number}: {one.error_class}: {one.error_text}")
            for number, one in enumerate(reasons, 1)
        ),
        folded=("reason",),
        whole="`sluice dlq show ID --full`",
    )


def letter_table(letters: Iterable[ListedLetter], reasons: Sequence[LetterReason]) -> Table:
    """Returns a row per letter: its position in Kafka, entity and error, and the number of events
    that wait behind it.
    """
    numbers = {(one.topic, one.error_class, one.error_text): n for n, one in enumerate(reasons, 1)}

    def error(one: ListedLetter) -> str:
        number = numbers.get((one.topic, one.error_class, one.error_text))
        return f"{one.error_class}: " + (one.error_text if number is None else f"reason {number}")

    return table_of(
        ("id", "record", "entity", "type", "state", "attempts", "age", "behind", "error"),
        (
            (
                one.id,
                place_of(one),
                entity_of(one),
                one.type,
                _state_of(one),
                one.attempts,
                say_age(one.age_seconds),
                one.behind,
                error(one),
            )
            for one in letters
        ),
        folded=("error",),
        whole="`sluice dlq show ID --full`",
    )


def _state_of(letter: ListedLetter | LetterCount) -> str:
    """Returns the state, with a remark if the letter is a conflict."""
    return f"{letter.state} (conflict)" if letter.outcome == Outcome.CONFLICT else letter.state


dlq_app = typer.Typer(
    help="Show failed events and the events that wait behind them; redrive or drop them.",
    no_args_is_help=True,
)
for command in (ls, show, redrive, drop, resolve, export):
    dlq_app.command()(command)
