"""kombu's transport for Redis, for an installation that shares its Redis with others and trusts no message.

Every key begins with the prefix of the installation. A message that Sluice did not write is dropped before
kombu reads it.

A message in hand is a message that a worker popped and has not acknowledged. It is stored unchanged, under a
tag that begins with its queue, so it can be put back without being read. Entries that other clients wrote
into `unacked` or into the bindings cannot stop a worker.
"""

import functools
import time
from contextlib import suppress
from queue import Empty
from typing import Any
from uuid import uuid4

import redis as redis_py
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.json import loads

from sluice.runtime.addressed_channel import AddressedChannel
from sluice.runtime.dropped_messages import dropped
from sluice.runtime.fanout import FanoutGuard
from sluice.runtime.redis_client import PrefixedRedis, is_wrong_type
from sluice.runtime.redis_item import CONTENT_TYPE, DropReason, read_item
from sluice.runtime.redis_refusals import refused
from sluice.runtime.redis_time import RedisTime

REPLY_QUEUE_END = ".reply.celery.pidbox"
"""The end of the names of queues to which workers answer `celery inspect`. kombu writes these messages."""

UNACKED_KEY, UNACKED_INDEX_KEY = "unacked", "unacked_index"
"""The keys of the messages in hand by tag, and of their tags with the times of the pops."""

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


def make_tag(queue: str, holder: str) -> str:
    """Returns a new delivery tag for a message of this queue that this holder popped."""
    return f"{queue}|{holder}.{uuid4().hex}"


def holder_channel(holder: str) -> str:
    """Returns the channel to which a holder of messages subscribes while it runs.

    Nothing is published there.
    """
    return f"holder.{holder}"


def queue_of_tag(tag: str | bytes) -> str | None:
    """Returns the queue in a delivery tag; None if `make_tag` did not make the tag."""
    text = tag.decode(errors="replace") if isinstance(tag, bytes) else tag
    return text.rpartition("|")[0] or None


class QoS(redis.QoS):
    """The messages in hand, stored unchanged in the hash `unacked`.

    The times in `unacked_index` are by the clock of Redis, because each worker checks the messages of all
    workers.
    """

    @functools.cached_property
    def _time(self) -> RedisTime:
        return RedisTime(self._ask_time)

    def _ask_time(self) -> tuple[int, int]:
        with self.channel.conn_or_acquire() as client:
            seconds, microseconds = client.time()
        return seconds, microseconds

    def append(self, message: Any, delivery_tag: str) -> None:
        """Stores a message that was popped.

        If Redis refuses to store it, the worker runs it anyway: the content of the message is also in Kafka
        and Postgres.
        """
        try:
            now = self._time.now()
            with self.pipe_or_acquire() as pipe:
                pipe.zadd(self.unacked_index_key, {delivery_tag: now})
                pipe.hset(self.unacked_key, delivery_tag, message._raw["item"])
                pipe.execute()
        except redis_py.ResponseError as error:
            refused.note(error, self.channel._create_client)
            self._forget(delivery_tag)  # one of the two writes may have succeeded
        virtual.QoS.append(self, message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Removes a message that was processed.

        If Redis refuses to remove it, the message is delivered again, which is harmless. This process forgets
        the message in any case: it takes no new message while it has one in hand.
        """
        self._forget(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]

    def _forget(self, tag: str | bytes) -> None:
        with refused.tolerated(self.channel._create_client):
            self._remove_from_indices(tag).execute()

    def _remove_from_indices(self, delivery_tag: Any, pipe: Any = None) -> Any:
        # The item is deleted before its entry in the index: an item without an entry would never be deleted.
        with self.pipe_or_acquire(pipe) as pipe:
            return pipe.hdel(self.unacked_key, delivery_tag).zrem(self.unacked_index_key, delivery_tag)

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:  # noqa: ARG002
        """Puts back messages that have been in hand for longer than the visibility timeout. Idempotent.

        If Redis refuses to put a message back, the message stays in hand.
        """
        with refused.tolerated(self.channel._create_client):
            self._restore_visible(start, num)

    def _restore_visible(self, start: int, num: int) -> None:
        longest_ago = self._time.now() - self.visibility_timeout
        with (
            suppress(redis.MutexHeld),
            self.channel.conn_or_acquire() as client,
            redis.Mutex(client, self.unacked_mutex_key, self.unacked_mutex_expire),
        ):
            tags = client.zrange(
                self.unacked_index_key, longest_ago, 0, desc=True, byscore=True, offset=start, num=num
            )
            for tag in tags:
                self.restore_by_tag(tag, client)

    def restore_by_tag(self, tag: str | bytes, client: Any = None, leftmost: bool = False) -> None:  # noqa: ARG002
        """Puts a message back to the head of its queue. Deletes a tag that `make_tag` did not make.

        Idempotent.
        """
        queue = queue_of_tag(tag)
        with self.channel.conn_or_acquire(client) as connection:
            if queue is None:
                dropped.note("unknown tag")
                self._forget(tag)
                return
            keys = [self.unacked_key, self.unacked_index_key, queue]
            # If Redis refuses the script, nothing is deleted, and the message is restored later.
            with refused.tolerated(self.channel._create_client):
                self.channel.restore_script(keys=keys, args=[tag], client=connection)

    def restore_unacked(self, client: Any = None) -> None:
        """Puts back all messages in hand, the newest first, because the last one becomes the first."""
        self._flush()  # type: ignore[no-untyped-call]
        with self.channel.conn_or_acquire(client) as connection:
            for tag in reversed(list(self._delivered)):
                self.restore_by_tag(tag, connection)
        self._delivered.clear()


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
