"""Celery's consumer, changed to continue after a loss of its broker and to run only signed messages."""

import time
import warnings
from typing import Any

import structlog
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer

from sluice.worker.task_receiver import TaskReceiver

log = structlog.get_logger("sluice.worker")

FLUSH_EVENTS_SECONDS = 0.2
"""The longest time for which events for Flower wait, so that several batches share one message."""

CONTROL_STEP = {"celery.worker.consumer.control:Control": "sluice.worker.remote_control:ControlStep"}


class ReconnectingConsumer(Consumer):  # type: ignore[misc]
    """Celery's consumer with the changes of this module."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The same steps, with Sluice's remote control in place of Celery's."""

        default_steps = tuple(CONTROL_STEP.get(step, step) for step in Consumer.Blueprint.default_steps)

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        # Two of Celery's steps are left out. They read broadcasts of other workers, and adopt the task ids
        # that these workers report as revoked.
        isolated = {"without_gossip": True, "without_mingle": True}
        super().__init__(*args, worker_options=(worker_options or {}) | isolated, **kwargs)
        self.flush_at = 0.0

    def create_task_handler(self, *_: Any, **__: Any) -> TaskReceiver:
        """Returns the receiver of all messages. Celery's own receiver trusts the unsigned envelope."""
        return TaskReceiver(self, self.app.sluice_membership.ring, note_newer=self.app.sluice_note_newer)

    def on_send_event_buffered(self) -> None:
        """Sends the events that wait after a short time. Celery's own method sends them at once."""
        now = time.monotonic()
        # By time, because a lost connection may remove the timer.
        if self.hub is not None and now >= self.flush_at:
            self.flush_at = now + FLUSH_EVENTS_SECONDS
            self.hub.call_later(FLUSH_EVENTS_SECONDS, self._flush_events)

    def shutdown(self) -> None:
        """Ends the consumer. Sends the events that wait."""
        self._flush_events()
        super().shutdown()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Closes the connection after an error.

        kombu 5.7.0 closes the connection twice. If the first close of a channel fails, the second close tries
        to put back messages in hand over a closed connection. This raises an AttributeError, which would end
        the worker. Here the error is only logged. The messages are put back later, like the messages of an
        ended worker, and records that were applied are skipped.
        """
        try:
            with warnings.catch_warnings():
                # After each lost connection, Celery would log a warning that recommends to end the current
                # tasks.
                warnings.simplefilter("ignore", CPendingDeprecationWarning)
                super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            if self.connection is not None:
                raise  # the error was not raised by a second close
            log.info("messages in hand not put back: broker unreachable", error=str(error))
