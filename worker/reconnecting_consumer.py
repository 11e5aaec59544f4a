"""Celery's consumer, changed to survive the loss of its broker and to run only signed messages."""

import warnings
from typing import Any

import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer

from sluice.worker.task_receiver import TaskReceiver

log = structlog.get_logger("sluice.worker")

CONTROL_STEP = {"celery.worker.consumer.control:Control": "sluice.worker.remote_control:ControlStep"}


class ReconnectingConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer with the changes of this module."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The same steps, with Sluice's remote control in place of Celery's."""

        default_steps = tuple(CONTROL_STEP.get(step, step) for step in Consumer.Blueprint.default_steps)

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        # Two steps are left out: they read broadcasts of other workers, and take over their revoked task ids.
        isolated = {"without_gossip": True, "without_mingle": True}
        super().__init__(*args, worker_options=(worker_options or {}) | isolated, **kwargs)

    def create_task_handler(self, *_: Any, **__: Any) -> TaskReceiver:
        """Returns the receiver of all messages. Celery's own receiver trusts the unsigned envelope."""
        return TaskReceiver(self, self.app.sluice_membership.ring, note_newer=self.app.sluice_note_newer)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Closes the rest of the connection.

        kombu 5.7.0 closes it twice. If a channel fails the first time, the second close tries to put back the
        messages that another channel has in hand, over a closed connection, and the worker ends. Here, these
        messages are restored like those of an ended worker; records that were applied are skipped.
        """
        try:
            with warnings.catch_warnings():
                # At each lost connection Celery logs a warning that recommends to end the tasks in hand.
                warnings.simplefilter("ignore", CPendingDeprecationWarning)
                super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            if self.connection is not None:
                raise  # not an error of closing
            log.info("messages in hand not put back: broker unreachable", error=str(error))
