"""`sluice bridge`, `sluice beat` and `sluice flower`: each command runs one process of the installation."""

import importlib.util
import os
import socket
import sys
from typing import Annotated, NoReturn

import typer

from sluice.admin.decisions import OperationRefused
from sluice.runtime.settings import read_settings


def bridge() -> None:
    """Run the bridge, which reads the topics and sends their events to the workers.

    Run several for more throughput or as spares: bridges share the
    partitions of the topics.

    SIGTERM and SIGINT end the bridge. Exit code 2 if the bridge cannot
    start. Exit code 3 if errors stopped the reading of all topics, or if
    this database is a copy and its original runs (see `sluice init
    --original`). The log has the reason.

    Example: sluice bridge
    """
    read_settings()
    # Imported here: the bridge takes half a second to import, and only this command needs it.
    from sluice.bridge.__main__ import main

    raise typer.Exit(main())


def beat() -> None:
    """Run the beat, the scheduler, which publishes the periodic tasks of the relay.

    The tasks send outgoing events, put due calls into their queue, start
    retries and rebuilds, and do the maintenance. One beat is enough. If two
    beats run, one schedules the tasks, and the other takes over when the
    first one ends.

    SIGTERM and SIGINT end the beat. Example: sluice beat
    """
    read_settings()
    _become_celery("beat")


def flower(
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 5555,
    celery_options: Annotated[
        list[str] | None, typer.Argument(metavar="-- FLOWER_OPTIONS", help="Options of `celery flower`.")
    ] = None,
) -> None:
    """Run Flower, the web page that shows workers, queues and tasks.

    Requires the extra `flower` of sluice-kafka. The buttons of its
    pages have no effect. SIGTERM and SIGINT end Flower.

    Example: sluice flower --port 5556
    """
    read_settings()
    if importlib.util.find_spec("flower") is None:
        raise OperationRefused("Flower is not installed; install it with: pip install 'sluice-kafka[flower]'")
    _refuse_used_port(address, port)
    _become_celery("flower", f"--address={address}", f"--port={port}", *(celery_options or ()))


def _become_celery(*words: str) -> NoReturn:
    """Replaces this process by `celery …` of this application."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Without --quiet Celery prints a banner between the log lines.
    os.execv(sys.executable, [sys.executable, "-m", "celery", "-A", "sluice.runtime.app", "--quiet", *words])


def _refuse_used_port(address: str, port: int) -> None:
    """Raises OperationRefused if the port is not usable: Flower itself would exit with a traceback."""
    try:
        with socket.create_server((address, port)):
            pass
    except OSError as error:
        raise OperationRefused(
            f"Flower cannot listen on {address}:{port}: {os.strerror(error.errno or 0)}; pass another --port"
        ) from error
