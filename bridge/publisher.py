"""Redis as the bridge sees it: where batches are put, how long the lists are, whether it was wiped."""

import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import redis

from sluice.runtime.celery_options import APPLY_TASK
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.task_sender import TaskSender

SENTINEL_KEY = "sentinel"
"""Holds a random value for as long as Redis keeps what it was told; the bridges share it."""


class PublisherUnavailable(Exception):
    """Redis does not answer, for now: what was to be published stays unsent."""


class Probe(NamedTuple):
    """List lengths by queue, and the sentinel's value."""

    lengths: Mapping[str, int]
    sentinel: str


class Publisher(Protocol):
    """Any method may raise PublisherUnavailable. After a failed publish nobody knows whether it arrived."""

    def publish(self, queue: str, slices: list[Slice]) -> None:
        """Puts one message on the queue's list; bounded in time, never tried again in here.

        Raises MessageTooLarge, and FormatTooOld as long as older workers run.
        """

    def probe(self, queues: Sequence[str]) -> Probe:
        """One round trip. Makes a sentinel where there is none: its value differs from every earlier one."""


class RedisPublisher:
    """See Publisher."""

    def __init__(self, sender: TaskSender) -> None:
        self._sender = sender

    def publish(self, queue: str, slices: list[Slice]) -> None:
        """See Publisher."""
        try:
            self._sender.send(APPLY_TASK, queue, (queue, slices))
        except (redis.RedisError, OSError) as error:
            raise PublisherUnavailable(str(error)) from error

    def probe(self, queues: Sequence[str]) -> Probe:
        """See Publisher."""
        try:
            with self._sender.redis.pipeline(transaction=False) as pipe:
                pipe.set(SENTINEL_KEY, secrets.token_hex(16), nx=True)
                pipe.get(SENTINEL_KEY)
                for queue in queues:
                    pipe.llen(queue)
                _, sentinel, *lengths = pipe.execute()
        except (redis.RedisError, OSError) as error:
            raise PublisherUnavailable(str(error)) from error
        return Probe(dict(zip(queues, lengths, strict=True)), (sentinel or b"").decode(errors="replace"))

    def close(self) -> None:
        """Ends the connections. May run twice."""
        self._sender.close()
