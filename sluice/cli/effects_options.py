"""What the commands of `sluice effects` begin with: a session, what is declared, the calls that are meant."""

from collections.abc import Sequence
from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused
from sluice.admin.effects import AnyCall
from sluice.db.admin.call_admin import Chosen, WholeCall, read_all_calls, read_call
from sluice.db.connection import Session
from sluice.runtime.settings import read_settings
from sluice.tasks.fold.registry import Registry, collect_handlers

Key = Annotated[str, typer.Argument(metavar="KEY", help="As `sluice effects ls` names it.")]
Keys = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY]...", help="As `sluice effects ls` names them.")
]
Every = Annotated[bool, typer.Option("--all", help="Instead of KEYs.")]
Effect = Annotated[str | None, typer.Option("--effect", help="With --all: of this effect alone.")]


def read_registry() -> Registry:
    """What the modules of SLUICE_HANDLERS declare."""
    return collect_handlers(read_settings().handlers)


def require_call(session: Session, key: str) -> WholeCall:
    """The call whole. Raises OperationRefused if there is none."""
    call = read_call(session, key)
    if call is None:
        raise OperationRefused(f"there is no call {key}")
    return call


def require_calls(session: Session, keys: Sequence[str] | None, chosen: Chosen | None) -> list[AnyCall]:
    """The calls of these keys, or all that are chosen. Raises OperationRefused, also for both or neither."""
    if bool(keys) == (chosen is not None):
        raise OperationRefused("name the calls by their KEYs, or all by --all, one of both")
    if chosen is not None:
        return list(read_all_calls(session, chosen))
    return [require_call(session, key) for key in dict.fromkeys(keys or ())]
