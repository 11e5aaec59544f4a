"""Checks if a pool of Celery may serve the queues of a worker. Returns the right command for a worker.

Handlers and calls need the main thread of a process.
"""

from collections.abc import Collection
from typing import Any

from celery.concurrency import ALIASES
from celery.utils.imports import symbol_by_name

from sluice.runtime.celery_options import EFFECTS_QUEUE, MAINTENANCE_QUEUE, REBUILD_QUEUE, RELAY_QUEUE

SOLO, PREFORK = "celery.concurrency.solo:TaskPool", "celery.concurrency.prefork:TaskPool"
CELERYS_OWN = "celery.concurrency."
RELAY_QUEUES = frozenset({RELAY_QUEUE, MAINTENANCE_QUEUE})


def pool_names(pool: Any) -> frozenset[str]:
    """Returns the full names of a pool and of its base classes.

    `pool` is a class, a name that Celery defines, or the path of a class. Celery's own pools are not
    imported, because gevent and eventlet may not be installed. Raises ImportError or AttributeError if
    another pool cannot be imported.
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
    """Returns the reason why a pool with these names must not serve these queues. Pure.

    None if the pool may serve them.

    `queues` is None for a worker that shares the queues.
    """
    if queues is None:
        if SOLO in names:
            return None
        return (
            "a worker without --queues shares the queues and applies one batch at a time;"
            f" run `{right_command(None)}`, or pass -P solo, or name its queues with --queues"
        )
    refused = sorted(set(queues) - RELAY_QUEUES)
    if not refused or SOLO in names or PREFORK in names:
        return None
    return (
        "it does not run tasks in the main thread of a process, so the limits of handlers and calls would not"
        f" work, and the queues {', '.join(refused)} need them; run `{right_command(queues)}`, or pass"
        " -P prefork for the queue effects and -P solo for all others"
    )


def queue_refusal(chosen: Collection[str], known: Collection[str]) -> str | None:
    """Returns the reason why a worker cannot serve the chosen queues; None if all queues are known. Pure."""
    unknown = sorted(set(chosen) - set(known))
    if not unknown:
        return None
    right = [name for name in chosen if name in known]
    command = right_command(right or None)
    return (
        f"there is no queue {', '.join(unknown)}; the queues are {', '.join(sorted(known))}; run"
        f" `{command}`, and first `sluice init` if your handlers declare a new entity type or more shards"
    )


def right_command(queues: Collection[str] | None) -> str:
    """Returns the command that starts a worker for these queues (None: a worker that shares the queues)."""
    if not queues:
        return "sluice worker"
    chosen = set(queues)
    if chosen <= RELAY_QUEUES:
        return "sluice relay"
    if chosen == {EFFECTS_QUEUE}:
        return "sluice effects-worker"
    if chosen == {REBUILD_QUEUE}:
        return "sluice rebuild-worker"
    return f"sluice worker --queues {','.join(sorted(chosen))}"
