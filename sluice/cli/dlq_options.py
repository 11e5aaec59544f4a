"""The arguments and options that several commands of `sluice dlq` share."""

from typing import Annotated

import typer

from sluice.cli.printing import read_age
from sluice.db.admin.letters import Chosen
from sluice.db.records import LetterState

Id = Annotated[
    int, typer.Argument(metavar="ID", help="Id of a failed or waiting event, from `sluice dlq ls`.")
]
Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="ID", help="Ids of failed or waiting events, from `sluice dlq ls`."),
]
Every = Annotated[bool, typer.Option("--all", help="Select all events that match the filters.")]
Topic = Annotated[str | None, typer.Option("--topic", help="Topic of the event.")]
Entity = Annotated[str | None, typer.Option("--entity", help="Entity type, such as order.")]
Key = Annotated[str | None, typer.Option("--key", help="Key of the entity, such as order-99.")]
Type = Annotated[str | None, typer.Option("--type", help="Type of the event, such as order.placed.")]
ErrorClass = Annotated[
    str | None, typer.Option("--error", help="Class of the error, such as CheckViolation.")
]
State = Annotated[LetterState | None, typer.Option("--state", help="State of the event.")]
OlderThan = Annotated[
    float | None,
    typer.Option("--older-than", parser=read_age, metavar="AGE", help="Minimum age, such as 90s, 10m or 2h."),
]


def filters_of(
    topic: str | None,
    entity: str | None,
    key: str | None,
    type_: str | None,
    error: str | None,
    state: LetterState | None,
    older_than: float | None,
) -> Chosen:
    """Returns the choice of letters that match all given filters."""
    return Chosen(None, topic, entity, key, type_, error, state.value if state else None, older_than)
