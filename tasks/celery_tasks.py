"""The Celery tasks. Each task passes its arguments to the services of the process that runs the task."""

from typing import Any, Protocol

from celery import Task, shared_task

from sluice.runtime import celery_options as names
from sluice.runtime.health import process_health
from sluice.runtime.place import Place
from sluice.tasks.apply.batch_message import Slice


class TaskServices(Protocol):
    """The services of a process that runs tasks, as `app.sluice_services`. Every method is idempotent.

    The relay and maintenance run in their own threads: their methods return before the work is done.
    """

    def apply(self, queue: str, slices: list[Slice]) -> None:
        """Applies one batch. Returns normally for every outcome. The bridge reads outcomes from Postgres."""

    def relay(self) -> None:
        """Dispatches due calls and publishes the outbox until nothing is left."""

    def run_effect(self, effect_key: str) -> None:
        """Makes one call if it is due."""

    def rebuild(self, projection: str, generation: int, place: Place) -> None:
        """Rebuilds one partition of a generation for a limited time."""

    def start_rebuilds(self) -> None:
        """Publishes a rebuild task for each partition that lags."""

    def start_retries(self) -> None:
        """Publishes a message without slices for every queue that has an event to retry now."""

    def expire_claims(self) -> None:
        """Ends the attempts at calls whose claim has expired."""

    def purge(self) -> None:
        """Deletes rows that are older than their retention."""

    def check_self(self) -> None:
        """Logs the open issues."""


class ServiceTask(Task):  # type: ignore[misc]
    """A task with access to the services of its process."""

    abstract = True

    @property
    def services(self) -> TaskServices:
        """Returns the services, which the worker sets at its start."""
        services: TaskServices = self.app.sluice_services
        return services


# Only `apply` is acknowledged late. For all other tasks, Postgres stores the remaining work, and beat
# publishes the task again.
_EARLY: dict[str, Any] = {"base": ServiceTask, "bind": True, "acks_late": False, "ignore_result": True}


@shared_task(name=names.APPLY_TASK, base=ServiceTask, bind=True, acks_late=True, ignore_result=True)  # type: ignore[untyped-decorator]
def apply(task: ServiceTask, queue: str, slices: list[Slice]) -> None:
    """Applies the slices of one message, and retries events of the queue; without slices it only retries."""
    with process_health.busy():
        task.services.apply(queue, slices)


@shared_task(name=names.RELAY_TASK, **_EARLY)  # type: ignore[untyped-decorator]
def relay(task: ServiceTask) -> None:
    """Publishes the outbox."""
    task.services.relay()


@shared_task(name=names.EFFECT_TASK, **_EARLY)  # type: ignore[untyped-decorator]
def run_effect(task: ServiceTask, effect_key: str) -> None:
    """Makes one call of a side effect."""
    task.services.run_effect(effect_key)


@shared_task(name=names.REBUILD_TASK, **_EARLY)  # type: ignore[untyped-decorator]
def rebuild(task: ServiceTask, projection: str, generation: int, topic: str, partition: int) -> None:
    """Rebuilds one partition of a generation."""
    with process_health.busy():
        task.services.rebuild(projection, generation, (topic, partition))


@shared_task(name=names.START_REBUILDS_TASK, **_EARLY)  # type: ignore[untyped-decorator]
def start_rebuilds(task: ServiceTask) -> None:
    """Publishes the rebuild tasks."""
    task.services.start_rebuilds()


@shared_task(name=names.START_RETRIES_TASK, **_EARLY)  # type: ignore[untyped-decorator]
def start_retries(task: ServiceTask) -> None:
    """Starts due retries of idle queues."""
    task.services.start_retries()


@shared_task(name=names.EXPIRE_CLAIMS_TASK, **_EARLY)  # type: ignore[untyped-decorator]
def expire_claims(task: ServiceTask) -> None:
    """Ends expired claims of calls."""
    task.services.expire_claims()


@shared_task(name=names.PURGE_TASK, **_EARLY)  # type: ignore[untyped-decorator]
def purge(task: ServiceTask) -> None:
    """Deletes old identities, calls and dead letters."""
    task.services.purge()


@shared_task(name=names.SELF_CHECK_TASK, **_EARLY)  # type: ignore[untyped-decorator]
def check_self(task: ServiceTask) -> None:
    """Logs the open issues, which require an operator."""
    task.services.check_self()
