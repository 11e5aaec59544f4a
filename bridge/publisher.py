"""The bridge's access to Redis: publishes batches, reads the lists, detects a wiped Redis."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import redis

from sluice.bridge.message_search import read_whereabouts, search_messages
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.runtime.celery_options import APPLY_TASK
from sluice.runtime.redis_refusals import refused
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.task_sender import Sent, TaskSender

SENTINEL_KEY = "sentinel"
"""A key with a random value that all bridges share. A changed value means that Redis lost its data."""


class PublisherUnavailable(Exception):
    """Redis does not answer: the message stays unsent."""


class PublisherRefused(PublisherUnavailable):
    """Redis answers, but refuses the write: it is full or read-only. The refusal was logged."""


class Probe(NamedTuple):
    """The state of the queues in Redis, and the sentinel's value."""

    waiting: Mapping[str, Waiting]
    found: Mapping[str, Whereabouts]
    sentinel: str


class Publisher(Protocol):
    """Any method may raise PublisherUnavailable. After a failed publish, the message may have arrived."""

    def publish(self, queue: str, slices: list[Slice]) -> Sent:
        """Puts one message on the queue's list. Has a time limit; does not retry.

        Raises MessageTooLarge, and FormatTooOld as long as older workers run.
        """

    def probe(self, queues: Sequence[str], searched: Sequence[str]) -> Probe:
        """Reads lists and sentinel in one round trip. Creates the sentinel if it is missing.

        A new sentinel has a new value. `searched`: queues whose messages are searched for.
        """


class RedisPublisher:
    """See Publisher."""

    def __init__(self, sender: TaskSender) -> None:
        self._sender = sender

    def publish(self, queue: str, slices: list[Slice]) -> Sent:
        """See Publisher."""
        with self._reaching():
            return self._sender.send(APPLY_TASK, queue, (queue, slices))

    def probe(self, queues: Sequence[str], searched: Sequence[str]) -> Probe:
        """See Publisher."""
        with self._reaching():
            redis = self._sender.redis
            with redis.pipeline() as pipe:
                pipe.get(SENTINEL_KEY)
                for queue in queues:
                    pipe.llen(queue)
                    pipe.memory_usage(queue, samples=0)
                for queue in searched:
                    search_messages(pipe, queue, redis.redis_prefix)
                sentinel, *answers = pipe.execute()
            if sentinel is None:
                # Follows the reads, because a full Redis refuses this write but answers reads.
                redis.set(SENTINEL_KEY, secrets.token_hex(16), nx=True)
                sentinel = redis.get(SENTINEL_KEY)
        answers_of = iter(answers)
        waiting = {queue: Waiting(next(answers_of), next(answers_of) or 0) for queue in queues}
        found = {queue: read_whereabouts(next(answers_of)) for queue in searched}
        return Probe(waiting, found, (sentinel or b"").decode(errors="replace"))

    def close(self) -> None:
        """Closes the connections. Idempotent."""
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
