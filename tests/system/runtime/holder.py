"""A connection that takes messages and listens to remote control, as a worker's connection does."""

from contextlib import suppress
from typing import Any

from kombu.connection import Connection
from kombu.messaging import Consumer
from kombu.pidbox import Mailbox

from sluice.runtime.celery_options import TRANSPORT_OPTIONS, apply_queue
from sluice.runtime.redis_transport import install_transport

# kombu has no useful types.
connect: Any = Connection
make_consumer: Any = Consumer
make_mailbox: Any = Mailbox


class Holder:
    """A simulated worker that takes one message at a time."""

    def __init__(self, url: str, prefix: str, queue: str) -> None:
        install_transport()
        self._connection = connect(url, transport_options={**TRANSPORT_OPTIONS, "global_keyprefix": prefix})
        self.held: list[Any] = []
        mailbox = make_mailbox("test", type="fanout", connection=self._connection)
        mailbox.Node("holder", channel=self._connection.channel()).listen(callback=lambda *_: None)
        consumer = make_consumer(
            self._connection.default_channel, [apply_queue(queue)], on_message=self.held.append
        )
        consumer.qos(prefetch_count=1)
        consumer.consume()

    def turn(self) -> "Holder":
        with suppress(TimeoutError):
            self._connection.drain_events(timeout=0.1)
        return self

    def vanish(self) -> None:
        """Closes the connections without restoring messages, as kill -9 does."""
        self._connection.transport.cycle.close()
        for channel in self._connection.connection.channels:
            channel.qos._on_collect.cancel()
            channel._disconnect_pools()

    @property
    def qos(self) -> Any:
        """kombu's object for the messages that the holder has taken and not acknowledged."""
        return self._connection.default_channel.qos
