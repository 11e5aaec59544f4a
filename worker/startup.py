"""What a worker sets up before Celery chooses its queues. Celery imports this module by name."""

from typing import Any

from celery import signals

from sluice.runtime.celery_options import SERVICE_QUEUES, apply_queue
from sluice.runtime.exposition import MetricsEndpoint
from sluice.worker.activity import Activity
from sluice.worker.worker_metrics import WorkerMetrics
from sluice.worker.worker_process import WorkerProcess


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]
def prepare(instance: Any, options: dict[str, Any], **_: Any) -> None:
    """Creates the services of this process, and declares the queues from which `-Q` chooses."""
    app = instance.app
    app.sluice_activity = Activity()
    app.sluice_metrics = WorkerMetrics()
    app.sluice_endpoint = MetricsEndpoint(app.sluice_settings)
    services = app.sluice_services = WorkerProcess(app.sluice_settings, app)
    names = [*services.queue_names(), *SERVICE_QUEUES]
    app.conf.task_queues = [apply_queue(name) for name in names]
    app.amqp.queues = app.amqp.Queues(app.conf.task_queues)
    app.sluice_shares_queues = not options.get("queues")
    if app.sluice_shares_queues:
        # Without -Q the worker consumes only the queues for which it holds a lease.
        app.amqp.queues.deselect(names)
    signals.worker_process_init.connect(lambda **_: app.sluice_endpoint.forget(), weak=False)
    signals.worker_shutdown.connect(lambda **_: services.close(), weak=False)
