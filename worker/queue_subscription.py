"""Changes the queues from which this worker pops, and keeps the messages in order.

For the loop's thread only. If Celery cancels a queue while a BRPOP for the queue is pending, the message that
this BRPOP pops is put back to the wrong end of the list. Therefore the queue is first left out of the next
BRPOP, and its callback is kept. The queue is cancelled when the pending BRPOP has returned and no message of
the queue is in hand.

This module uses attributes of kombu that are not public. tests/system/worker/test_kombu.py checks them.
"""

from collections.abc import Set as AbstractSet
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from kombu.utils.scheduling import round_robin_cycle

from sluice.runtime.celery_options import apply_queue
from sluice.runtime.messages_in_hand import queue_of_tag

log = structlog.get_logger("sluice.leases")

# Seconds after which an idle worker begins a new BRPOP. Only a new BRPOP pops from a newly taken queue.
BRPOP_SECONDS = 0.25
# The most unacknowledged messages that are read, newest first. Each worker has one such message, but other
# clients of Redis may have filled the keys.
MAX_LOOKED_AT = 10_000


class LeaseCycle(round_robin_cycle):
    """The order of queues in a BRPOP.

    Stores the queues that are left out, and the queues of the last BRPOP.
    """

    def __init__(self, it: list[str] | None = None) -> None:
        super().__init__(it)  # type: ignore[no-untyped-call]
        self.left_out: set[str] = set()
        self.named: frozenset[str] = frozenset()

    def consume(self, n: int) -> list[str]:
        """Returns the queues of the next BRPOP."""
        names: list[str] = super().consume(n)  # type: ignore[no-untyped-call]
        queues = [name for name in names if name not in self.left_out]
        self.named = frozenset(queues)
        return queues


class QueueSubscription:
    """The queues that are consumed over one connection. After each reconnect, a new object is made."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._channel: Any = consumer.task_consumer.channel
        self._channel.brpop_timeout = BRPOP_SECONDS
        self._cycle: LeaseCycle = self._channel._queue_cycle
        self._queues: set[str] = set()

    @property
    def queues(self) -> frozenset[str]:
        """Returns the queues from which a message may still be popped, or has been popped and is in hand."""
        return frozenset(self._queues)

    def adjust(self, wanted: AbstractSet[str]) -> None:
        """Starts to consume the wanted queues, and stops to consume the others.

        Call it again until `queues` equals `wanted`.
        """
        self._cycle.left_out |= self._queues - wanted
        for queue in [queue for queue in self._cycle.left_out if self._is_quiet(queue)]:
            self._cancel(queue)
        for queue in sorted(wanted - self._queues):
            self._take(queue)

    def _take(self, queue: str) -> None:
        known = self._consumer.app.amqp.queues
        if queue not in known:
            known.add(apply_queue(queue))
        self._restore_unacked(queue)
        self._consumer.add_task_queue(queue)
        self._queues.add(queue)

    def _cancel(self, queue: str) -> None:
        self._consumer.cancel_task_queue(queue)
        self._cycle.left_out.discard(queue)
        self._queues.discard(queue)

    def _is_quiet(self, queue: str) -> bool:
        if self._channel._in_poll and queue in self._cycle.named:
            return False
        qos = self._channel.qos
        in_hand = [message for tag, message in qos._delivered.items() if tag not in qos._dirty]
        return all(message.delivery_info["routing_key"] != queue for message in in_hand)

    def _restore_unacked(self, queue: str) -> None:
        """Puts the messages of an ended worker back to the head of the list, in their order.

        Otherwise these messages would wait until the visibility timeout, and would then be applied after
        newer messages.
        """
        with self._channel.conn_or_acquire() as client:
            newest = client.zrevrange(self._channel.unacked_index_key, 0, MAX_LOOKED_AT - 1)
            tags = [tag for tag in newest if queue_of_tag(tag) == queue]
            for tag in tags:
                self._channel.qos.restore_by_tag(tag, client)
        if tags:
            log.info("messages of an ended worker restored", queue=queue, messages=len(tags))
