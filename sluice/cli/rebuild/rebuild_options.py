"""What `sluice rebuild` is about: a projection, one of its generations, and what reaches them."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from sluice.db.connection import Session
from sluice.runtime.service_urls import StackUrls, read_addresses
from sluice.runtime.settings import read_settings
from sluice.tasks.fold.registry import Registry, collect_handlers

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
