"""Which queues this worker pops from, changed without losing a message's place; on the loop's thread only.

Celery can cancel a queue, but a BRPOP that names it may be under way: what that pops goes to the wrong end of
its list. So a queue is first left out of the next BRPOP, with its callback in place, and cancelled once the
one under way has returned and nothing of the queue is in hand.

Built on attributes of kombu that are not public; tests/system/worker/test_kombu.py pins them.
"""

from collections.abc import Set as AbstractSet
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from kombu.utils.scheduling import round_robin_cycle

from sluice.runtime.celery_options import apply_queue
from sluice.runtime.redis_transport import queue_of_tag

log = structlog.get_logger("sluice.leases")

# A queue that is taken is popped from with the next BRPOP: an idle worker begins one this often.
BRPOP_SECONDS = 0.25
# Of the messages in hand anywhere, the newest: each worker has one, and what others wrote there is not read.
MAX_LOOKED_AT = 10_000


class LeaseCycle(round_robin_cycle):
    """The order in which a BRPOP names the queues; knows which are left out, and which the last one named."""

    def __init__(self, it: list[str] | None = None) -> None:
        super().__init__(it)  # type: ignore[no-untyped-call]
        self.left_out: set[str] = set()
        self.named: frozenset[str] = frozenset()

    def consume(self, n: int) -> list[str]:
        """The queues of the next BRPOP."""
        names: list[str] = super().consume(n)  # type: ignore[no-untyped-call]
        queues = [name for name in names if name not in self.left_out]
        self.named = frozenset(queues)
        return queues


class QueueSubscription:
    """The consumption of one connection; each reconnect makes a new one."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._channel: Any = consumer.task_consumer.channel
        self._channel.brpop_timeout = BRPOP_SECONDS
        self._cycle: LeaseCycle = self._channel._queue_cycle
        self._queues: set[str] = set()

    @property
    def queues(self) -> frozenset[str]:
        """Of which something may still be popped, or is in hand."""
        return frozenset(self._queues)

    def adjust(self, wanted: AbstractSet[str]) -> None:
        """Takes what is wanted, leaves what is not. To be called again until `queues` is what is wanted."""
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
        """What a worker that died had taken comes back to the head of the list, in its order.

        Else it would wait for the visibility timeout, and then come behind what is newer.
        """
        with self._channel.conn_or_acquire() as client:
            newest = client.zrevrange(self._channel.unacked_index_key, 0, MAX_LOOKED_AT - 1)
            tags = [tag for tag in newest if queue_of_tag(tag) == queue]
            for tag in tags:
                self._channel.qos.restore_by_tag(tag, client)
        if tags:
            log.info("messages of a dead worker restored", queue=queue, messages=len(tags))
