"""What the commands of `sluice dlq` begin with: a session, and the letters that are meant."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from enum import Enum
from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused
from sluice.cli.ages import read_age
from sluice.db.admin.letters import Chosen
from sluice.db.admin.whole_letters import WholeLetter, read_whole_letters
from sluice.db.connection import BATCH_PLANS, Session
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings
from sluice.tasks.fold.registry import collect_handlers
from sluice.tasks.redrive import Redriver


class LetterState(Enum):
    """As in `dead_letters`."""

    DEAD = "dead"
    WAITING = "waiting"
    DROPPED = "dropped"
    DONE = "done"


Id = Annotated[int, typer.Argument(metavar="ID", help="As `sluice dlq ls` names it.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="As `sluice dlq ls` names them.")]
Every = Annotated[bool, typer.Option("--all", help="Instead of IDs: all that the options leave.")]
Topic = Annotated[str | None, typer.Option("--topic")]
Entity = Annotated[str | None, typer.Option("--entity", help="Entity type, as in order.")]
Key = Annotated[str | None, typer.Option("--key", help="Key of the entity, as in order-99.")]
Type = Annotated[str | None, typer.Option("--type", help="Type of the event, as in order.placed.")]
ErrorClass = Annotated[str | None, typer.Option("--error", help="Class of the error, as in CheckViolation.")]
State = Annotated[LetterState | None, typer.Option("--state")]
OlderThan = Annotated[
    float | None, typer.Option("--older-than", parser=read_age, metavar="AGE", help="As in 90s, 10m, 2h.")
]


@contextmanager
def redriving() -> Iterator[Redriver]:
    """What applies letters again, with the handlers of SLUICE_HANDLERS."""
    settings = read_settings()
    registry = collect_handlers(settings.handlers)
    url = read_addresses(settings).database_url
    # A session of its own: the plans that suit a batch do not suit a look.
    with closing(Session(url, application_name="sluice redrive", plans=BATCH_PLANS)) as session:
        yield Redriver(session, registry)


def require_letter(session: Session, letter_id: int) -> WholeLetter:
    """The letter whole. Raises OperationRefused if there is none."""
    found = read_whole_letters(session, Chosen(ids=(letter_id,)), after=0, limit=1)
    if not found:
        raise OperationRefused(f"there is no dead letter {letter_id}")
    return found[0]


def require_choice(ids: Sequence[int] | None, every: bool, filters: Chosen) -> Chosen:
    """The letters with these ids, or with --all those that match the filters. Raises OperationRefused."""
    if bool(ids) == every or (ids and any(value is not None for value in filters)):
        raise OperationRefused(
            "name the letters by their IDs, or all by --all, which the other options narrow down"
        )
    return filters._replace(ids=tuple(ids)) if ids else filters
