"""Redis as the bridge sees it: where batches are put, how long the lists are, whether it was wiped."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import redis

from sluice.runtime.celery_options import APPLY_TASK
from sluice.runtime.redis_refusals import refused
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.task_sender import TaskSender

SENTINEL_KEY = "sentinel"
"""Holds a random value for as long as Redis keeps what it was told; the bridges share it."""


class PublisherUnavailable(Exception):
    """Redis does not answer, for now: what was to be published stays unsent."""


class PublisherRefused(PublisherUnavailable):
    """Redis answers, but refuses to store: it is full, or takes no writes. It was logged."""


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
        """One round trip, if there is a sentinel. Makes one where there is none.

        Its value differs from every earlier one.
        """


class RedisPublisher:
    """See Publisher."""

    def __init__(self, sender: TaskSender) -> None:
        self._sender = sender

    def publish(self, queue: str, slices: list[Slice]) -> None:
        """See Publisher."""
        with self._reaching():
            self._sender.send(APPLY_TASK, queue, (queue, slices))

    def probe(self, queues: Sequence[str]) -> Probe:
        """See Publisher."""
        with self._reaching():
            redis = self._sender.redis
            with redis.pipeline(transaction=False) as pipe:
                pipe.get(SENTINEL_KEY)
                for queue in queues:
                    pipe.llen(queue)
                sentinel, *lengths = pipe.execute()
            if sentinel is None:
                # Only now: a full Redis refuses it, and answers the rest.
                redis.set(SENTINEL_KEY, secrets.token_hex(16), nx=True)
                sentinel = redis.get(SENTINEL_KEY)
        return Probe(dict(zip(queues, lengths, strict=True)), (sentinel or b"").decode(errors="replace"))

    def close(self) -> None:
        """Ends the connections. May run twice."""
        self._sender.close()

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except redis.ResponseError as error:
            refused.note(error, lambda: self._sender.redis)
            raise PublisherRefused(str(error)) from error
        except (redis.RedisError, OSError) as error:
            raise PublisherUnavailable(str(error)) from error
