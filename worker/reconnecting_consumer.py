"""Celery's consumer, which the loss of its broker does not end, whatever is in hand."""

import structlog
from celery.worker.consumer import Consumer

log = structlog.get_logger("sluice.worker")


class ReconnectingConsumer(Consumer):  # type: ignore[misc]
    """Celery's own but for one thing; see below."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Closes what is left of the connection.

        kombu 5.7.0 closes it twice. If a channel fails the first time, another one that has messages in hand
        wants to put them back the second time, over a connection that is gone, and the worker ends. They come
        back as those of a dead worker do; what was applied of them is known by then.
        """
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            if self.connection is not None:
                raise  # it was not in closing
            log.info("messages in hand were not put back: the broker is away", error=str(error))
