"""Celery's consumer, which the loss of its broker does not end, and which runs signed messages alone."""

import warnings
from typing import Any

import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer

from sluice.worker.task_receiver import TaskReceiver

log = structlog.get_logger("sluice.worker")

CONTROL_STEP = {"celery.worker.consumer.control:Control": "sluice.worker.remote_control:ControlStep"}


class ReconnectingConsumer(Consumer):  # type: ignore[misc]
    """Celery's own but for what follows."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The same steps, with our remote control in place of Celery's."""

        default_steps = tuple(CONTROL_STEP.get(step, step) for step in Consumer.Blueprint.default_steps)

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        # By these two steps a worker reads what others broadcast, and takes over task ids that they revoked.
        isolated = {"without_gossip": True, "without_mingle": True}
        super().__init__(*args, worker_options=(worker_options or {}) | isolated, **kwargs)

    def create_task_handler(self, *_: Any, **__: Any) -> TaskReceiver:
        """Returns what receives every message. Replaces Celery's, which believes the envelope."""
        return TaskReceiver(self, self.app.sluice_membership.ring, note_newer=self.app.sluice_note_newer)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Closes what is left of the connection.

        kombu 5.7.0 closes it twice. If a channel fails the first time, another one that has messages in hand
        wants to put them back the second time, over a connection that is gone, and the worker ends. They come
        back as those of a dead worker do; what was applied of them is known by then.
        """
        try:
            with warnings.catch_warnings():
                # Celery would rather end the tasks in hand, and warns of the setting at each lost connection.
                warnings.simplefilter("ignore", CPendingDeprecationWarning)
                super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            if self.connection is not None:
                raise  # it was not in closing
            log.info("messages in hand were not put back: the broker is away", error=str(error))
