"""Publishes signed Celery messages."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast
from uuid import uuid4

import msgspec

from sluice.runtime.installation import Installation
from sluice.runtime.redis_client import PrefixedRedis, build_redis
from sluice.runtime.redis_item import DropReason, read_item, write_item
from sluice.runtime.settings import Settings
from sluice.tasks.installation.keyring import KeyRing
from sluice.tasks.task_messages import READERS, WRITERS, TaskCall, UnknownTask

MAX_LISTED = 10  # more messages than one queue has periodic tasks


class Sent(NamedTuple):
    """A published message, and the number of messages on its queue's list, including this message."""

    message_id: str
    bytes: int
    waiting: int


class TaskSender:
    """Pushes messages onto the lists of queues. Any method may raise redis.RedisError.

    If a method raises, the message may still have arrived. Calling the method again is safe.
    """

    def __init__(self, redis: PrefixedRedis, ring: KeyRing) -> None:
        self._redis = redis
        self._ring = ring

    def send(self, task: str, queue: str, arguments: Sequence[Any] = ()) -> Sent:
        """Signs and publishes one message, in the newest format that every active worker reads.

        Raises MessageTooLarge, and FormatTooOld if that format cannot carry the arguments.
        """
        version = self._ring.format
        content = WRITERS[version](TaskCall(task, arguments))
        message_id = str(uuid4())
        item = write_item(task, self._ring.seal(version, content), message_id, version=version)
        return Sent(message_id, len(item), int(self._redis.lpush(queue, item)))

    def count_waiting(self, queue: str) -> int:
        """Returns the number of messages on a queue's list."""
        return int(self._redis.llen(queue))

    def is_waiting(self, task: str, queue: str) -> bool:
        """Returns True if the list holds a message of this task, or MAX_LISTED messages of any task.

        A task on the list has not begun yet. It will find all work that is committed now.
        """
        items = cast("list[bytes]", self._redis.lrange(queue, 0, MAX_LISTED - 1))
        return len(items) == MAX_LISTED or any(self._task_of(item) == task for item in items)

    @property
    def redis(self) -> PrefixedRedis:
        """Returns the client, for keys other than the queues."""
        return self._redis

    def _task_of(self, item: bytes) -> str | None:
        """Returns the task of a message, None if this installation did not sign it."""
        read = read_item(item)
        frame = None if isinstance(read, DropReason) else self._ring.open(read.frame)
        if frame is None or frame.version not in READERS:
            return None
        try:
            return READERS[frame.version](frame.content).task
        except (UnknownTask, msgspec.MsgspecError):
            return None

    def close(self) -> None:
        """Ends the connections. Idempotent."""
        self._redis.close()


def open_sender(settings: Settings, installation: Installation, ring: KeyRing) -> TaskSender:
    """Returns a sender of this installation. It connects at its first message."""
    return TaskSender(build_redis(settings.redis_url.get_secret_value(), installation.redis_prefix), ring)
