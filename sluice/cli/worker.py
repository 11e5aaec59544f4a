"""`sluice worker`: starts Celery's worker with the pool and options for what it serves, and supervises it."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from sluice.runtime.celery_options import EFFECTS_QUEUE, MAINTENANCE_QUEUE, REBUILD_QUEUE, RELAY_QUEUE
from sluice.runtime.logs import configure_logs
from sluice.runtime.service_urls import shown_addresses
from sluice.runtime.settings import PREFIX, read_settings
from sluice.worker.death_notes import DeathNotes
from sluice.worker.supervisor import Supervisor

DETACHING = frozenset({"-D", "--detach"})


class Serve(StrEnum):
    """What a worker serves."""

    APPLY = "apply"
    RELAY = "relay"
    EFFECTS = "effects"
    REBUILD = "rebuild"


class LogLevel(StrEnum):
    """Levels of the log, as the setting has them."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


QUEUES_OF = {
    Serve.RELAY: (RELAY_QUEUE, MAINTENANCE_QUEUE),
    Serve.EFFECTS: (EFFECTS_QUEUE,),
    Serve.REBUILD: (REBUILD_QUEUE,),
}


def worker(
    serve: Annotated[
        Serve,
        typer.Option(
            help="apply: events. relay: the outbox, and maintenance. effects: calls. rebuild: projections."
        ),
    ] = Serve.APPLY,
    queues: Annotated[
        str | None,
        typer.Option(metavar="QUEUES", help="Serve these queues, separated by commas, and share none."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Calls at a time; with --serve effects. Default: one per CPU.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name before the @ of the node name. Default: celery.")
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Overrides SLUICE_LOG_LEVEL.")] = None,
    celery_options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CELERY_OPTIONS]", help="Options of `celery worker`.")
    ] = None,
) -> None:
    """Run a worker, and start another one when it ends.

    Without options it applies events, and shares the queues of all
    entity types with the other workers.

    An event becomes a dead letter if its handlers run for longer than
    SLUICE_HANDLER_SECONDS and cannot be interrupted, or if they end
    the process three times. The next worker goes on with the others.

    SIGTERM and SIGINT end the worker after its batch. A worker that
    refuses to start is not started again; its exit code is returned.

    Example: sluice worker --serve effects --concurrency 8
    """
    words = celery_words(
        serve, queues=queues, concurrency=concurrency, name=name, celery_options=celery_options or ()
    )
    environ = dict(os.environ)
    if log_level is not None:
        environ[f"{PREFIX}LOG_LEVEL"] = log_level.value
    settings = read_settings(environ)
    configure_logs(
        log_format=settings.log_format,
        level=settings.log_level,
        process="supervisor",
        addresses=shown_addresses(settings),
    )
    supervisor = Supervisor(
        [sys.executable, "-m", "celery", *words],
        environ=environ,
        handler_seconds=settings.handler_seconds,
        store_death=DeathNotes(settings.database_url.get_secret_value()).store,
    )
    raise typer.Exit(supervisor.run())


def celery_words(
    serve: Serve,
    *,
    queues: str | None,
    concurrency: int | None,
    name: str | None,
    celery_options: Sequence[str],
) -> list[str]:
    """Returns the words after `celery`. Raises typer.BadParameter."""
    if queues is not None and serve is not Serve.APPLY:
        raise typer.BadParameter(f"--queues names what --serve {serve.value} chooses: pass one of both")
    if concurrency is not None and serve is not Serve.EFFECTS:
        raise typer.BadParameter("--concurrency requires --serve effects; start more workers instead")
    if detaching := DETACHING.intersection(celery_options):
        raise typer.BadParameter(f"{', '.join(detaching)}: a worker in the background cannot be supervised")
    words = ["-A", "sluice.runtime.app", "worker", "-P", "prefork" if serve is Serve.EFFECTS else "solo"]
    served = queues or ",".join(QUEUES_OF.get(serve, ()))
    if served:
        words += ["-Q", served]
    if concurrency is not None:
        words += ["-c", str(concurrency)]
    if name is not None:
        words += ["-n", f"{name}@%h"]
    return [*words, *celery_options]
