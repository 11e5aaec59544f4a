"""Sets up a worker before Celery chooses the worker's queues. Celery imports this module by its name."""

import os
from typing import Any, NoReturn

import structlog
from celery import signals
from celery.utils.text import str_to_list

from sluice.db.records import ProcessKind
from sluice.runtime.celery_options import SERVICE_QUEUES, apply_queue
from sluice.runtime.exposition import MetricsEndpoint
from sluice.runtime.handler_mark import STATE, WorkerState, find_memory
from sluice.runtime.handler_watch import main_watch, set_limits
from sluice.runtime.health import process_health
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.settings import SettingsError
from sluice.tasks.installation import formats
from sluice.tasks.installation.joining import join_installation
from sluice.worker.activity import Activity
from sluice.worker.lease_thread import stuck_seconds
from sluice.worker.pools import PREFORK, pool_names, pool_refusal, queue_refusal
from sluice.worker.queue_yields import QueueYields
from sluice.worker.worker_metrics import WorkerMetrics
from sluice.worker.worker_process import WorkerProcess

log = structlog.get_logger("sluice.worker")


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def prepare(instance: Any, options: dict[str, Any], **_: Any) -> None:
    """Creates the services of this process, and declares all queues.

    `--queues` chooses among these queues.
    """
    app = instance.app
    queues = str_to_list(options["queues"]) if options.get("queues") else None
    forks = _check_pool(options.get("pool") or options.get("pool_cls") or app.conf.worker_pool, queues)
    set_limits(app.sluice_settings)
    app.sluice_is_supervised = join_supervisor()
    app.sluice_activity = Activity()
    app.sluice_yields = QueueYields()
    app.sluice_metrics = WorkerMetrics()
    app.sluice_endpoint = MetricsEndpoint(app.sluice_settings)
    process_health.busy_limit_seconds = stuck_seconds(app.sluice_settings.handler_seconds)
    app.sluice_note_newer = lambda queue: app.sluice_yields.note(
        queue, message_format=formats.NEWEST_FORMAT + 1
    )
    services = app.sluice_services = WorkerProcess(app.sluice_settings, app)
    try:
        if not forks:
            # A worker that waits for Postgres is live. Children of a pool would keep a copy of the port open.
            app.sluice_endpoint.open([])
        app.sluice_membership = join_installation(
            app.sluice_settings,
            services.registry,
            kind=ProcessKind.WORKER,
            node=instance.hostname,
            queues=queues,
        )
    except (InstallationRefused, SettingsError) as error:
        _refuse(f"Worker refused: {error}", reason=str(error))
    names = [*services.queue_names(), *SERVICE_QUEUES]
    if (refusal := queue_refusal(queues or (), names)) is not None:
        app.sluice_membership.leave()
        _refuse(f"Worker refused: {refusal}", reason=refusal)
    app.conf.task_queues = [apply_queue(name) for name in names]
    app.amqp.queues = app.amqp.Queues(app.conf.task_queues)
    app.sluice_shares_queues = queues is None
    if app.sluice_shares_queues:
        # A worker without --queues consumes only the queues for which it holds a lease.
        app.amqp.queues.deselect(names)
    own_process = os.getpid()
    signals.worker_process_init.connect(lambda **_: _leave_parent(app, own_process), weak=False)
    signals.worker_shutdown.connect(lambda **_: services.close(), weak=False)
    signals.worker_shutdown.connect(lambda **_: app.sluice_membership.leave(), weak=False)


def _leave_parent(app: Any, parent: int) -> None:
    """Runs in a child process of a pool. Gives up the port and the shared memory of the parent."""
    app.sluice_endpoint.forget()
    # The pool "solo" sends this signal too, but in the worker's own process.
    if os.getpid() != parent:
        app.sluice_is_supervised = False
        main_watch.detach()


def join_supervisor() -> bool:
    """From now on, marks running handlers and this worker's state in the memory of its supervisor.

    Returns False if the worker has no supervisor.
    """
    memory = find_memory(os.environ)
    if memory is None:
        return False
    main_watch.attach(memory)
    signals.worker_ready.connect(lambda **_: _note_state(WorkerState.READY), weak=False)
    for ending in (signals.worker_shutting_down, signals.worker_shutdown):
        ending.connect(lambda **_: _note_state(WorkerState.ENDING), weak=False)
    return True


def _note_state(state: WorkerState) -> None:
    main_watch.cells[STATE] = state


def _check_pool(pool: Any, queues: list[str] | None) -> bool:
    """Returns True if the pool forks processes.

    Raises SystemExit if the pool must not serve `queues` (None: a worker that shares the queues).
    """
    names: frozenset[str] = frozenset()
    try:
        names = pool_names(pool)
        refusal = pool_refusal(names, queues)
    except (ImportError, AttributeError) as error:
        refusal = f"it cannot be imported: {error}"
    if refusal is not None:
        name = pool if isinstance(pool, str) else pool.__module__
        _refuse(f"Worker refused with the pool {name}: {refusal}", pool=name, reason=refusal)
    return PREFORK in names


def _refuse(sentence: str, **fields: str) -> NoReturn:
    log.error("worker refused", **fields)
    raise SystemExit(sentence)
