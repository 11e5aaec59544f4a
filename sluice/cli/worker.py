"""The commands that run Celery's worker with the pool and the queues for its work, and supervise it."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

import typer

from sluice.runtime.celery_options import EFFECTS_QUEUE, MAINTENANCE_QUEUE, REBUILD_QUEUE, RELAY_QUEUE
from sluice.runtime.logs import configure_logs
from sluice.runtime.service_urls import shown_addresses
from sluice.runtime.settings import PREFIX, read_settings
from sluice.worker.death_notes import DeathNotes
from sluice.worker.supervisor import Supervisor

DETACHING = frozenset({"-D", "--detach"})


class Work(NamedTuple):
    """What a worker does: the name of its node, its pool and its queues (empty: the shared queues)."""

    name: str
    pool: str
    queues: tuple[str, ...] = ()


APPLY = Work("worker", "solo")
RELAY = Work("relay", "solo", (RELAY_QUEUE, MAINTENANCE_QUEUE))
EFFECTS = Work("effects", "prefork", (EFFECTS_QUEUE,))
REBUILD = Work("rebuild", "solo", (REBUILD_QUEUE,))


class LogLevel(StrEnum):
    """Log levels, with the values of the setting."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Name = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of this worker: the part of its node name before the @. Must differ between the"
        " workers of a machine.",
    ),
]
Level = Annotated[LogLevel | None, typer.Option("--log-level", help="Overrides SLUICE_LOG_LEVEL.")]
CeleryOptions = Annotated[
    list[str] | None, typer.Argument(metavar="-- CELERY_OPTIONS", help="Options of `celery worker`.")
]


def worker(
    queues: Annotated[
        str | None,
        typer.Option(metavar="QUEUES", help="Serve only these queues, separated by commas."),
    ] = None,
    name: Name = None,
    level: Level = None,
    celery_options: CeleryOptions = None,
) -> None:
    """Run a worker that applies events, and restart it when it ends.

    Without --queues the worker shares the queues of all entity types
    with the other workers. A worker applies one batch at a time: for
    more throughput, run more workers.

    An event becomes a dead letter if its handlers run for longer than
    SLUICE_HANDLER_SECONDS and cannot be interrupted, or if they end
    the process three times. The restarted worker continues with the next
    event.

    SIGTERM and SIGINT end the worker after its batch. A worker that
    refuses to start is not restarted; the command returns its exit code.

    Example: sluice worker --name worker-2
    """
    work = APPLY if queues is None else APPLY._replace(queues=tuple(queues.split(",")))
    _supervise(work, name, level, celery_options or ())


def relay(name: Name = None, level: Level = None, celery_options: CeleryOptions = None) -> None:
    """Run the worker that sends outgoing events and does the maintenance.

    The relay also queues the calls of side effects that are due, starts
    retries and rebuilds, and deletes old rows. The relay needs a running
    beat. Run one or two relays.

    SIGTERM and SIGINT end the relay. Example: sluice relay
    """
    _supervise(RELAY, name, level, celery_options or ())


def effects_worker(
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of calls at the same time. Default: the number of CPUs."),
    ] = None,
    name: Name = None,
    level: Level = None,
    celery_options: CeleryOptions = None,
) -> None:
    """Run the worker that makes side effects: the calls to other services that handlers yield.

    The worker needs a running relay, which queues the calls.

    SIGTERM and SIGINT end the worker after the calls in flight.

    Example: sluice effects-worker --concurrency 8
    """
    options = [] if concurrency is None else ["-c", str(concurrency)]
    _supervise(EFFECTS, name, level, [*options, *(celery_options or ())])


def rebuild_worker(name: Name = None, level: Level = None, celery_options: CeleryOptions = None) -> None:
    """Run the worker that fills new generations (copies) of projections for `sluice rebuild`.

    The worker needs a running relay, which starts its tasks. For more
    throughput, run more rebuild workers, up to one per partition.

    SIGTERM and SIGINT end the worker. Example: sluice rebuild-worker
    """
    _supervise(REBUILD, name, level, celery_options or ())


def celery_words(work: Work, *, name: str | None, options: Sequence[str]) -> list[str]:
    """Returns the arguments of `celery`. Raises typer.BadParameter."""
    if detaching := DETACHING.intersection(options):
        raise typer.BadParameter(f"{', '.join(detaching)}: a worker in the background cannot be supervised")
    # Without --quiet Celery prints a banner between the log lines.
    words = [
        "-A",
        "sluice.runtime.app",
        "--quiet",
        "worker",
        "-P",
        work.pool,
        "-n",
        f"{name or work.name}@%h",
    ]
    if work.queues:
        words += ["-Q", ",".join(work.queues)]
    return [*words, *options]


def _supervise(work: Work, name: str | None, level: LogLevel | None, options: Sequence[str]) -> None:
    words = celery_words(work, name=name, options=options)
    environ = dict(os.environ)
    if level is not None:
        environ[f"{PREFIX}LOG_LEVEL"] = level.value
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
