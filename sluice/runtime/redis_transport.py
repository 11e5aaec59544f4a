"""kombu's transport for Redis, for an installation that shares its Redis with others and trusts no message.

Every key begins with the prefix of the installation. A message that Sluice did not write is dropped before
kombu reads it.

Entries that other clients wrote into the bindings cannot stop a worker.
"""

import functools
import time
from queue import Empty
from typing import Any
from uuid import uuid4

import redis as redis_py
from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.json import loads

from sluice.runtime.addressed_channel import AddressedChannel
from sluice.runtime.dropped_messages import dropped
from sluice.runtime.fanout import FanoutGuard
from sluice.runtime.messages_in_hand import (
    UNACKED_INDEX_KEY,
    UNACKED_KEY,
    QoS,
    holder_channel,
    make_tag,
)
from sluice.runtime.redis_client import PrefixedRedis, is_wrong_type
from sluice.runtime.redis_item import CONTENT_TYPE, DropReason, read_item
from sluice.runtime.redis_refusals import refused

REPLY_QUEUE_END = ".reply.celery.pidbox"
"""The end of the names of queues to which workers answer `celery inspect`. kombu writes these messages."""

REFUSED_PAUSE_SECONDS = 0.25
"""The pause after a refused BRPOP. Without it, the loop would repeat the BRPOP without a pause."""

# Puts a message back to the head of its list, and only one time if several clients run the script.
_RESTORE = """
local item = redis.call('HGET', KEYS[1], ARGV[1])
if item then redis.call('RPUSH', KEYS[3], item) end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return item and 1 or 0
"""


class Channel(FanoutGuard, AddressedChannel):
    """kombu's channel with these changes. The prefix is the transport option `global_keyprefix`."""

    QoS = QoS
    unacked_key, unacked_index_key = UNACKED_KEY, UNACKED_INDEX_KEY
    _shared_client: Any = None

    def _subscribe(self) -> None:
        super()._subscribe()  # type: ignore[no-untyped-call]
        if self._in_listen:
            self.subclient.subscribe(holder_channel(self.connection.holder))

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Returns a client. Commands that are answered at once share one client, which is slow to make."""
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        pool = self.pool
        if self._shared_client is None or self._shared_client.connection_pool is not pool:
            self._shared_client = super()._create_client()  # type: ignore[no-untyped-call]
        return self._shared_client

    def _get_client(self) -> Any:
        client = super()._get_client()  # type: ignore[no-untyped-call]
        if not self.global_keyprefix:
            return client
        return functools.partial(PrefixedRedis, redis_prefix=self.global_keyprefix)

    @functools.cached_property
    def restore_script(self) -> Any:
        """The script that puts a message back."""
        return self._create_client().register_script(_RESTORE)

    @property
    def _script_binding_deadlines(self) -> str:
        # kombu's own property adds the prefix, because its client does not. `PrefixedRedis` adds the prefix.
        return str(self.keyprefix_binding_deadlines)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        # Only remote control uses bindings, and a worker receives its broadcasts even without bindings.
        with refused.tolerated(self._create_client):
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[no-untyped-call]

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Returns the bindings of an exchange. Omits members that do not have the shape of a binding."""
        with self.conn_or_acquire() as client:
            members = client.smembers(self.keyprefix_queue % exchange)
        parts = [tuple(member.decode(errors="replace").split(self.sep)) for member in members]
        return [part for part in parts if len(part) == 3]

    def _restore(self, message: Any, leftmost: bool = False) -> None:  # noqa: ARG002
        self.qos.restore_by_tag(message.delivery_tag)

    def _brpop_read(self, **options: Any) -> bool:
        try:
            queue, item = self._popped(**options)
            # The solo pool runs the task inside of `_deliver`, so errors of the task must not be caught here.
            self._queue_cycle.rotate(queue)
            message = _reply(item) if queue.endswith(REPLY_QUEUE_END) else self._message(queue, item)
            if message is not None:
                self.connection._deliver(message, queue)
            return True
        finally:
            self._in_poll: Any = None
            self._flush_brpop_reauth()  # type: ignore[no-untyped-call]

    def _get(self, queue: Any, timeout: Any = None) -> Any:  # noqa: ARG002
        with self.conn_or_acquire() as client:
            item = client.rpop(queue)
        message = None if item is None else self._message(queue, item)
        if message is None:
            raise Empty
        return message

    def _popped(self, **options: Any) -> tuple[str, bytes]:
        try:
            answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
        except redis_py.ResponseError as error:
            if is_wrong_type(error):
                self.client.repair_queues(self.active_queues)
            else:
                refused.note(error, self._create_client)
                time.sleep(REFUSED_PAUSE_SECONDS)
            raise Empty from error
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        if not answer:
            raise Empty
        queue, item = answer
        return queue.decode(), item

    def _message(self, queue: str, item: bytes) -> dict[str, Any] | None:
        """Returns the item as a message of kombu; None if the item is dropped.

        The signature is not checked yet.
        """
        read = read_item(item)
        if isinstance(read, DropReason):
            dropped.note(read.value, queue=queue)
            return None
        return {
            "body": read.frame,
            "content-type": CONTENT_TYPE,
            "content-encoding": "binary",
            "headers": {"id": read.task_id},
            "properties": {
                "delivery_tag": make_tag(queue, self.connection.holder),
                "delivery_info": {"exchange": "", "routing_key": queue},
            },
            "item": item,
        }


class Transport(redis.Transport):
    """kombu's transport with this channel.

    If Redis refuses a command and no other code handles that, it counts as a lost connection, and the worker
    reconnects.
    """

    Channel = Channel
    connection_errors = (*redis.Transport.connection_errors, redis_py.ResponseError)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.holder = uuid4().hex


def install_transport() -> None:
    """Makes kombu use this transport for the addresses of Redis in this process. Idempotent.

    Changes kombu's table of transports, because Flower requires the standard scheme of the address.
    """
    for scheme in ("redis", "rediss", "sentinel"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


def _reply(item: bytes) -> dict[str, Any] | None:
    try:
        message = loads(item)  # type: ignore[no-untyped-call]
        message["properties"]["delivery_tag"]
    except (TypeError, KeyError, ValueError, RecursionError):
        dropped.note(DropReason.UNREADABLE.value)
        return None
    return dict(message)
