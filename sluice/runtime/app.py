"""The Celery application of workers and beat.

A worker with `-P solo` leases a share of the queues. A worker with `--queues` consumes the listed queues.
Modules import only modules of their own or a lower layer, so the application names the modules of higher
layers as strings.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from celery import Celery, signals
from kombu.utils.imports import symbol_by_name

from sluice.runtime.celery_options import make_celery
from sluice.runtime.fault_points import faults
from sluice.runtime.installation import Installation, InstallationRefused
from sluice.runtime.logs import configure_logs
from sluice.runtime.service_urls import shown_addresses
from sluice.runtime.settings import Settings, SettingsError, read_settings

TASKS = "sluice.tasks.celery_tasks"
STARTUP = "sluice.worker.startup"
WORKER_STEPS = ("sluice.worker.health_step:HealthStep", "sluice.worker.worker_metrics:MetricsStep")
CONSUMER_STEPS = ("sluice.worker.lease_step:LeaseStep",)
CONSUMER = "sluice.worker.reconnecting_consumer:ReconnectingConsumer"
SCHEDULER = "sluice.worker.beat:SluiceScheduler"
READ_INSTALLATION = "sluice.tasks.installation.joining:wait_for_installation"
QUEUE_ORDER = "sluice.worker.queue_subscription.LeaseCycle"


@cache
def create_app() -> Celery:
    """Returns the application of this process, which is made at the first call. Raises SettingsError."""
    settings = read_settings()
    faults.arm(settings.faults)
    # Logs are configured first, because a process that waits for Postgres logs that.
    configure_logs(
        log_format=settings.log_format,
        level=settings.log_level,
        process="celery",
        addresses=shown_addresses(settings),
    )
    app = make_celery(settings, partial(_wait_for_installation, settings))
    app.conf.update(
        imports=(TASKS, STARTUP),
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # If the connection is lost, the worker still applies its current message. The message is delivered
        # again, and the second delivery changes nothing.
        worker_enable_prefetch_count_reduction=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_consumer=CONSUMER,
        beat_scheduler=SCHEDULER,
        sluice_health_file=settings.health_file,
    )
    app.conf.broker_transport_options["queue_order_strategy"] = QUEUE_ORDER
    app.steps["worker"].update(WORKER_STEPS)
    app.steps["consumer"].update(CONSUMER_STEPS)

    # If this signal has a receiver, Celery does not configure logs itself.
    signals.setup_logging.connect(_keep_logs)
    return app


def _keep_logs(**_: Any) -> None:
    return None


def _wait_for_installation(settings: Settings) -> Installation:
    read: Callable[[Settings], Installation] = symbol_by_name(READ_INSTALLATION)  # type: ignore[no-untyped-call]
    try:
        return read(settings)
    except InstallationRefused as error:
        # Only Flower and `celery inspect` can fail here: a worker has read the installation earlier.
        raise SystemExit(f"Refused: {error}") from error


def __getattr__(name: str) -> Any:
    """Returns the attribute for `celery -A sluice.runtime.app`. The import alone reads no environment."""
    if name in ("app", "celery"):
        try:
            return create_app()
        except SettingsError as error:
            # Without this conversion, Celery's own commands would print a traceback.
            raise SystemExit(f"Refused: {error}") from error
    raise AttributeError(name)
