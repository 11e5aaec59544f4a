"""What `sluice rebuild` is about: a projection, one of its generations, and what reaches them."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from db.session import Session
from ops.addresses import read_addresses
from ops.decisions import NotDone
from ops.stack import StackUrls
from tasks.handlers import Registry, collect_handlers
from tasks.settings import read_settings

Projection = Annotated[str, typer.Argument(metavar="NAME", help="A projection.")]
Number = Annotated[
    int | None, typer.Option("--generation", metavar="N", help="Needed where several would do.")
]
Patience = Annotated[
    float, typer.Option("--patience", metavar="SECONDS", help="How long to wait for lockstep and for locks.")
]
RETRY_SECONDS = 0.2


@contextmanager
def reached() -> Iterator[tuple[Session, Registry, StackUrls]]:
    """A session to look and decide with, the code's declarations, and where the services are."""
    settings = read_settings()
    registry = collect_handlers(settings.handlers)
    urls = read_addresses(settings)
    with closing(Session(urls.database_url, application_name="sluice rebuild")) as session:
        yield session, registry, urls


def require_declared(registry: Registry, projection: str) -> int:
    """The revision of the code that fills the projection. Raises NotDone."""
    if projection not in registry.revisions:
        known = ", ".join(sorted(registry.revisions)) or "none"
        raise NotDone(f"no module of SLUICE_HANDLERS projects into {projection}; they declare: {known}")
    return registry.revisions[projection]
