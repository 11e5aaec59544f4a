"""The Celery application: `worker -P solo` has a share of the queues, with `-Q` a list of them."""

from functools import cache
from typing import Any

from celery import Celery, bootsteps, signals

from sluice.runtime.celery_options import (
    APPLY_TASK,
    EFFECT_TASK,
    EXPIRE_CLAIMS_TASK,
    PURGE_TASK,
    REBUILD_TASK,
    RELAY_TASK,
    SELF_CHECK_TASK,
    SERVICE_QUEUES,
    START_REBUILDS_TASK,
    apply_queue,
    make_celery,
)
from sluice.runtime.exposition import MetricsEndpoint
from sluice.runtime.fault_points import faults
from sluice.runtime.health import TOUCH_EVERY_SECONDS, touch_health
from sluice.runtime.logs import configure_logs
from sluice.runtime.settings import read_settings
from sluice.tasks.events.wire import unpack
from sluice.worker.activity import Activity
from sluice.worker.lease_step import LeaseStep
from sluice.worker.queue_subscription import CYCLE
from sluice.worker.reconnecting import RECONNECTING
from sluice.worker.worker_metrics import MetricsStep, WorkerMetrics
from sluice.worker.worker_process import WorkerProcess


@cache
def create_app() -> Celery:
    """The application of this process, made when it is first asked for. Raises SettingsError."""
    settings = read_settings()
    faults.arm(settings.faults)
    app = make_celery(settings)
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_consumer=RECONNECTING,
        beat_scheduler="sluice.worker.beat:SluiceScheduler",  # by name: workers import nothing of it
        sluice_health_file=settings.health_file,
    )
    app.conf.broker_transport_options["queue_order_strategy"] = CYCLE
    # Beat's scheduler is given nothing but the application. Not in its conf: Flower shows that.
    app.sluice_settings = settings
    app.sluice_activity = Activity()
    app.sluice_shares_queues = False
    app.sluice_metrics = WorkerMetrics()
    app.sluice_endpoint = MetricsEndpoint(settings)
    app.steps["worker"].update((HealthStep, MetricsStep))
    app.steps["consumer"].add(LeaseStep)
    process = WorkerProcess(settings, app)

    _define_tasks(app, process)

    # Queues are needed before the worker picks those of its -Q from them.
    @signals.celeryd_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def prepare(options: dict[str, Any], **_: Any) -> None:
        names = [*process.queue_names(), *SERVICE_QUEUES]
        app.conf.task_queues = [apply_queue(name) for name in names]
        app.amqp.queues = app.amqp.Queues(app.conf.task_queues)
        if not options.get("queues"):
            # Without a list none is consumed but those that a lease says.
            app.sluice_shares_queues = True
            app.amqp.queues.deselect(names)

    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def set_up_logs(**_: Any) -> None:
        configure_logs(log_format=settings.log_format, level=settings.log_level, process="celery")

    @signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def forget_endpoint(**_: Any) -> None:
        app.sluice_endpoint.forget()

    @signals.worker_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
    def close(**_: Any) -> None:
        process.close()

    return app


def _define_tasks(app: Celery, process: WorkerProcess) -> None:
    # Only a batch is acknowledged late: of all else Postgres knows what is left to do, and beat calls again.
    early = {"acks_late": False, "ignore_result": True}

    @app.task(name=APPLY_TASK, acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
    def apply(queue: str, packed: list[Any]) -> None:
        process.apply(queue, unpack(packed))

    @app.task(name=RELAY_TASK, **early)  # type: ignore[untyped-decorator]
    def relay() -> None:
        process.relay()

    @app.task(name=EFFECT_TASK, **early)  # type: ignore[untyped-decorator]
    def run_effect(effect_key: str) -> None:
        process.run_effect(effect_key)

    @app.task(name=REBUILD_TASK, **early)  # type: ignore[untyped-decorator]
    def rebuild(projection: str, generation: int, topic: str, partition: int) -> None:
        process.rebuild(projection, generation, (topic, partition))

    @app.task(name=START_REBUILDS_TASK, **early)  # type: ignore[untyped-decorator]
    def start_rebuilds() -> None:
        process.start_rebuilds()

    @app.task(name=EXPIRE_CLAIMS_TASK, **early)  # type: ignore[untyped-decorator]
    def expire_claims() -> None:
        process.expire_claims()

    @app.task(name=PURGE_TASK, **early)  # type: ignore[untyped-decorator]
    def purge() -> None:
        process.purge()

    @app.task(name=SELF_CHECK_TASK, **early)  # type: ignore[untyped-decorator]
    def check_self() -> None:
        process.check_self()


class HealthStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Touches the health file from the worker's own loop."""

    requires = frozenset({"celery.worker.components:Timer"})

    def start(self, parent: Any) -> None:
        """Touches at once, and every few seconds as long as timers run."""
        health_file = parent.app.conf.sluice_health_file
        touch_health(health_file)
        parent.timer.call_repeatedly(TOUCH_EVERY_SECONDS, touch_health, (health_file,))


def __getattr__(name: str) -> Any:
    """The attribute that `celery -A sluice.runtime.app` asks for: importing alone reads no environment."""
    if name in ("app", "celery"):
        return create_app()
    raise AttributeError(name)
