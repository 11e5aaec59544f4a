"""Redis as the bridge sees it: where batches are put, how long the lists are, whether it was wiped."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import redis
from kombu.exceptions import OperationalError

from sluice.runtime.celery_options import APPLY_TASK, apply_queue, make_celery
from sluice.runtime.installation import Installation
from sluice.runtime.redis_client import build_redis
from sluice.runtime.settings import Settings
from sluice.tasks.apply.batch_message import Slice, pack

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
        """Puts one message on the queue's list; bounded in time, never tried again in here."""

    def probe(self, queues: Sequence[str]) -> Probe:
        """One round trip. Makes a sentinel where there is none: its value differs from every earlier one."""


class RedisPublisher:
    """See Publisher. Holds one producer open; makes a new one after a failure."""

    def __init__(self, settings: Settings, installation: Installation) -> None:
        self._app = make_celery(settings, lambda: installation)
        self._redis = build_redis(
            settings.redis_url.get_secret_value(), installation.redis_prefix, decode_responses=True
        )
        self._producer: Any = None
        self._queues: dict[str, Any] = {}

    def publish(self, queue: str, slices: list[Slice]) -> None:
        """See Publisher."""
        if queue not in self._queues:
            self._queues[queue] = apply_queue(queue)
        records = sum(len(part.records) for part in slices)
        try:
            if self._producer is None:
                self._producer = self._app.amqp.Producer(self._app.connection_for_write(), auto_declare=False)
            self._app.send_task(
                APPLY_TASK,
                args=[queue, pack(slices)],
                queue=self._queues[queue],
                producer=self._producer,
                serializer="msgpack",
                retry=False,
                ignore_result=True,
                argsrepr=f"({queue}, {records} records of {len(slices)} lanes)",
                kwargsrepr="{}",
            )
        except (OperationalError, redis.RedisError, OSError) as error:
            self._drop_producer()
            raise PublisherUnavailable(str(error)) from error

    def probe(self, queues: Sequence[str]) -> Probe:
        """See Publisher."""
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(SENTINEL_KEY, secrets.token_hex(16), nx=True)
                pipe.get(SENTINEL_KEY)
                for queue in queues:
                    pipe.llen(queue)
                _, sentinel, *lengths = pipe.execute()
        except (redis.RedisError, OSError) as error:
            raise PublisherUnavailable(str(error)) from error
        return Probe(dict(zip(queues, lengths, strict=True)), sentinel or "")

    def close(self) -> None:
        """Ends the connections. May run twice."""
        self._drop_producer()
        self._redis.close()

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                producer.connection.close()
            except (OperationalError, redis.RedisError, OSError):
                return  # it was broken: that is why it goes
