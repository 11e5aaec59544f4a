"""Changes the queues that this worker pops from, without moving a message. For the loop's thread only.

Celery can cancel a queue, but a BRPOP that names the queue may be pending: the message that it pops returns
to the wrong end of the list. So a queue is first left out of the next BRPOP, with its callback in place. The
queue is cancelled after the pending BRPOP has returned, when no message of the queue is in hand.

Uses attributes of kombu that are not public; tests/system/worker/test_kombu.py checks them.
"""

from collections.abc import Set as AbstractSet
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from kombu.utils.scheduling import round_robin_cycle

from sluice.runtime.celery_options import apply_queue
from sluice.runtime.redis_transport import queue_of_tag

log = structlog.get_logger("sluice.leases")

# The next BRPOP pops from a new queue. Seconds after which an idle worker begins a new BRPOP.
BRPOP_SECONDS = 0.25
# Limit for the newest messages in hand, one per worker, because foreign clients may fill the keys.
MAX_LOOKED_AT = 10_000


class LeaseCycle(round_robin_cycle):
    """The order of queues in a BRPOP. Stores the queues that are left out, and those of the last BRPOP."""

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
    """The queues that are consumed over one connection. Each reconnect makes a new object."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._channel: Any = consumer.task_consumer.channel
        self._channel.brpop_timeout = BRPOP_SECONDS
        self._cycle: LeaseCycle = self._channel._queue_cycle
        self._queues: set[str] = set()

    @property
    def queues(self) -> frozenset[str]:
        """Returns the queues from which a message may still be popped, or is in hand."""
        return frozenset(self._queues)

    def adjust(self, wanted: AbstractSet[str]) -> None:
        """Takes the wanted queues and leaves the others. Call it again until `queues` equals `wanted`."""
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
        """Restores the messages of an ended worker to the head of the list, in their order.

        Otherwise they would wait for the visibility timeout and then be behind newer messages.
        """
        with self._channel.conn_or_acquire() as client:
            newest = client.zrevrange(self._channel.unacked_index_key, 0, MAX_LOOKED_AT - 1)
            tags = [tag for tag in newest if queue_of_tag(tag) == queue]
            for tag in tags:
                self._channel.qos.restore_by_tag(tag, client)
        if tags:
            log.info("messages of an ended worker restored", queue=queue, messages=len(tags))
