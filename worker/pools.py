"""Which of Celery's pools may serve which queues: handlers and calls need the main thread of a process."""

from collections.abc import Collection
from typing import Any

from celery.concurrency import ALIASES
from celery.utils.imports import symbol_by_name

from sluice.runtime.celery_options import MAINTENANCE_QUEUE, RELAY_QUEUE

SOLO, PREFORK = "celery.concurrency.solo:TaskPool", "celery.concurrency.prefork:TaskPool"
CELERYS_OWN = "celery.concurrency."


def pool_names(pool: Any) -> frozenset[str]:
    """Returns the full names of a pool and of its base classes.

    `pool` is a class, a name of Celery's or the path of a class. A pool of Celery's is not imported: those
    for gevent and eventlet may not be there. Raises ImportError and AttributeError for another one.
    """
    if isinstance(pool, str):
        path = ALIASES.get(pool) or pool
        if ":" not in path:
            path = ":".join(path.rsplit(".", 1))
        if path.startswith(CELERYS_OWN):
            return frozenset({path})
        pool = symbol_by_name(path)
    return frozenset(f"{one.__module__}:{one.__qualname__}" for one in pool.__mro__)


def pool_refusal(names: Collection[str], queues: Collection[str] | None) -> str | None:
    """Returns why a pool with these names must not serve these queues; None: it may. Pure.

    `queues` is None for a worker that shares the queues.
    """
    if queues is None:
        if SOLO in names:
            return None
        return (
            "a worker without -Q shares the queues, and does one batch at a time: start it with -P solo,"
            " or name its queues with -Q"
        )
    refused = sorted(set(queues) - {RELAY_QUEUE, MAINTENANCE_QUEUE})
    if not refused or SOLO in names or PREFORK in names:
        return None
    return (
        "it does not run tasks in the main thread of a process, so the limits of handlers and calls would not"
        f" work, and the queues {', '.join(refused)} need them: start the worker with -P prefork for the"
        " queue effects, with -P solo for all others"
    )
