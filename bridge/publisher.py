"""The bridge's access to Redis: publishes batches, reads queues' lists, detects that Redis lost its data."""

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
"""A key in Redis with a random value. All bridges share the key.

If the value has changed, Redis lost its data.
"""


class PublisherUnavailable(Exception):
    """Redis does not answer. The message stays unsent."""


class PublisherRefused(PublisherUnavailable):
    """Redis answers, but refuses the write, because it is full or read-only.

    The refusal is already logged.
    """


class Probe(NamedTuple):
    """The state of the queues in Redis, and the sentinel's value."""

    waiting: Mapping[str, Waiting]
    found: Mapping[str, Whereabouts]
    sentinel: str


class Publisher(Protocol):
    """The interface. Any method may raise PublisherUnavailable.

    Then Redis may still have stored the message.
    """

    def publish(self, queue: str, slices: list[Slice]) -> Sent:
        """Puts one message on the queue's list. Has a time limit and does not retry.

        Raises MessageTooLarge. Raises FormatTooOld if a running worker is too old to read the message.
        """

    def probe(self, queues: Sequence[str], searched: Sequence[str]) -> Probe:
        """Reads the lists and the sentinel in one round trip.

        If the sentinel is missing, creates it with a new value. `searched`: the queues whose messages are
        searched for.
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
                # This write comes after the reads: a full Redis refuses the write, but still answers the
                # reads.
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
