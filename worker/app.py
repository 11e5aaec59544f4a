"""The Celery application: `celery -A worker.app worker -P solo -Q payment.0,payment.1`."""

import gc
from functools import cache
from typing import Any

import structlog
from celery import Celery, bootsteps, signals

from db.queues import read_queue_names
from db.session import BATCH_PLANS, Session
from tasks.apply import Applier
from tasks.broker import apply_queue, make_celery
from tasks.faults import faults
from tasks.handlers import HandlersRefused, Registry, collect_handlers
from tasks.health import TOUCH_EVERY_SECONDS, touch_health
from tasks.log import configure_logs
from tasks.settings import Settings, read_settings
from tasks.wire import APPLY_TASK, unpack
from worker.schedule import MAX_INTERVAL_SECONDS, SluiceScheduler

log = structlog.get_logger("sluice.worker")

SERVICE_QUEUES = ("relay", "maint", "effects", "rebuild")


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
        beat_scheduler=SluiceScheduler,
        beat_max_loop_interval=MAX_INTERVAL_SECONDS,
        sluice_health_file=settings.health_file,
    )
    app.steps["worker"].add(HealthStep)
    process = WorkerProcess(settings)

    @app.task(name=APPLY_TASK, acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
    def apply(queue: str, packed: list[Any]) -> None:
        """Applies one batch; returns normally whatever became of it: the bridge knows from Postgres."""
        process.applier.apply(queue, unpack(packed))

    # Queues are needed before the worker picks those of its -Q from them.
    @signals.celeryd_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def prepare(**_: Any) -> None:
        names = [*process.queue_names(), *SERVICE_QUEUES]
        app.conf.task_queues = [apply_queue(name) for name in names]
        app.amqp.queues = app.amqp.Queues(app.conf.task_queues)

    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def set_up_logs(**_: Any) -> None:
        configure_logs(log_format=settings.log_format, level=settings.log_level, process="celery")

    @signals.worker_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
    def close(**_: Any) -> None:
        process.close()

    return app


class WorkerProcess:
    """What one worker process holds: its handlers, and a session that the first batch opens."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registry: Registry | None = None
        self._session: Session | None = None
        self._applier: Applier | None = None

    @property
    def registry(self) -> Registry:
        """The handlers, collected at start. Ends the process if they cannot be served."""
        if self._registry is None:
            try:
                self._registry = collect_handlers(self._settings.handlers)
            except HandlersRefused as error:
                log.error("handlers refused", reason=str(error))
                raise SystemExit(f"Handlers refused: {error}") from error
        return self._registry

    @property
    def applier(self) -> Applier:
        """The applier of this process."""
        if self._applier is None:
            url = self._settings.database_url.get_secret_value()
            self._session = Session(url, application_name="sluice worker", plans=BATCH_PLANS)
            self._applier = Applier(self._session, self.registry)
            # A batch makes some ten thousand objects and no cycles: with Python's defaults the collector
            # walks all of them 15 times per batch, a quarter of the worker's time.
            gc.freeze()
            gc.set_threshold(50_000, 20, 20)
        return self._applier

    def queue_names(self) -> list[str]:
        """The queues there are: as Postgres says, which alone knows of re-routings."""
        declared = {f"{e.name}.{n}" for e in self.registry.entities.values() for n in range(e.shards)}
        session = Session(self._settings.database_url.get_secret_value(), application_name="sluice worker")
        try:
            return sorted(declared | set(read_queue_names(session)))
        except Exception as error:
            # Postgres may come up after its workers; the declared queues serve until the next start.
            log.warning("queues not read from Postgres", error=str(error))
            return sorted(declared)
        finally:
            session.close()

    def close(self) -> None:
        """Ends the session. May run twice."""
        if self._session is not None:
            self._session.close()


class HealthStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Touches the health file from the worker's own loop."""

    requires = frozenset({"celery.worker.components:Timer"})

    def start(self, parent: Any) -> None:
        """Touches at once, and every few seconds as long as timers run."""
        health_file = parent.app.conf.sluice_health_file
        touch_health(health_file)
        parent.timer.call_repeatedly(TOUCH_EVERY_SECONDS, touch_health, (health_file,))


def __getattr__(name: str) -> Any:
    """`worker.app.app`, which `celery -A worker.app` asks for: importing alone reads no environment."""
    if name in ("app", "celery"):
        return create_app()
    raise AttributeError(name)
