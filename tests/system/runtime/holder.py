"""A connection as a worker has it: it takes messages, and listens to remote control."""

from contextlib import suppress
from typing import Any

from kombu.connection import Connection
from kombu.messaging import Consumer
from kombu.pidbox import Mailbox

from sluice.runtime.celery_options import TRANSPORT_OPTIONS, apply_queue
from sluice.runtime.redis_transport import install_transport

# Their types say nothing.
connect: Any = Connection
make_consumer: Any = Consumer
make_mailbox: Any = Mailbox


class Holder:
    """It takes one message at a time."""

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
        """As kill -9 does: nothing is put back."""
        self._connection.transport.cycle.close()
        for channel in self._connection.connection.channels:
            channel.qos._on_collect.cancel()
            channel._disconnect_pools()

    @property
    def qos(self) -> Any:
        """The messages in hand."""
        return self._connection.default_channel.qos
