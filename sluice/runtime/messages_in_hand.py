"""The messages that a worker popped and has not acknowledged, as kombu's QoS keeps them in Redis.

Such a message is stored unchanged, under a tag that begins with its queue, so it can be put back without
being read. Entries that other clients wrote into `unacked` cannot stop a worker.
"""

import functools
from contextlib import suppress
from typing import Any
from uuid import uuid4

import redis as redis_py
from kombu.transport import redis, virtual

from sluice.runtime.dropped_messages import dropped
from sluice.runtime.redis_refusals import refused
from sluice.runtime.redis_time import RedisTime

UNACKED_KEY, UNACKED_INDEX_KEY = "unacked", "unacked_index"
"""The keys of the messages in hand by tag, and of their tags with the times of the pops."""


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
