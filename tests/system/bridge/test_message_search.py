"""Where the bridge finds a message: on the list, in hand of a worker that lives, or nowhere."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.messaging import Consumer
from kombu.pidbox import Mailbox

from sluice.bridge.publisher import RedisPublisher
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.runtime.celery_options import TRANSPORT_OPTIONS, apply_queue
from sluice.runtime.message_frame import HEAD_BYTES
from sluice.runtime.redis_client import PrefixedRedis, build_redis
from sluice.runtime.redis_item import write_item
from sluice.runtime.redis_transport import UNACKED_INDEX_KEY, install_transport
from sluice.tasks.task_sender import TaskSender
from tests.waiting import wait_until

PREFIX = "search-00000000:"
QUEUE, OTHER = "thing.0", "thing.00"
NOWHERE = Whereabouts()
NO_KEYS: Any = None
# Their types say nothing.
connect: Any = Connection
make_consumer: Any = Consumer
make_mailbox: Any = Mailbox


class Holder:
    """A worker's connection: it takes one message, and listens to remote control as workers do."""

    def __init__(self, url: str) -> None:
        install_transport()
        self._connection = connect(url, transport_options={**TRANSPORT_OPTIONS, "global_keyprefix": PREFIX})
        self.held: list[Any] = []
        mailbox = make_mailbox("test", type="fanout", connection=self._connection)
        mailbox.Node("holder", channel=self._connection.channel()).listen(callback=lambda *_: None)
        consumer = make_consumer(
            self._connection.default_channel, [apply_queue(QUEUE)], on_message=self.held.append
        )
        consumer.qos(prefetch_count=1)
        consumer.consume()

    def turn(self) -> "Holder":
        with suppress(TimeoutError):
            self._connection.drain_events(timeout=0.1)
        return self

    def vanish(self) -> None:
        """As kill -9 does: nothing is put back."""
        self._connection.transport.cycle.close()
        for channel in self._connection.connection.channels:
            channel.qos._on_collect.cancel()
            channel._disconnect_pools()


@pytest.fixture
def redis(redis_url: str) -> Iterator[PrefixedRedis]:
    with build_redis(redis_url, PREFIX) as client:
        yield client


def test_a_message_is_found_until_its_holder_is_gone(redis: PrefixedRedis, redis_url: str) -> None:
    publisher = RedisPublisher(TaskSender(redis, NO_KEYS))

    def find() -> Whereabouts:
        return publisher.probe([], [QUEUE]).found[QUEUE]

    assert find() == NOWHERE
    for queue, name in ((QUEUE, "first"), (QUEUE, "second"), (OTHER, "other")):
        redis.lpush(queue, write_item("a task", bytes(HEAD_BYTES), name))
    assert find() == Whereabouts(on_list=frozenset({"first", "second"}))
    holder = Holder(redis_url)
    wait_until(lambda: holder.turn().held, timeout_seconds=30, what="a message is taken")
    taken = Whereabouts(frozenset({"second"}), frozenset({"first"}))
    # It begins to listen in the same turns of its loop.
    wait_until(lambda: holder.turn() and find() == taken, timeout_seconds=30, what="the message is in hand")
    assert publisher.probe([OTHER], [OTHER]).found[OTHER].on_list == {"other"}
    holder.vanish()
    wait_until(
        lambda: find() == Whereabouts(on_list=frozenset({"second"})),
        timeout_seconds=30,
        what="nobody holds the message",
    )


def test_what_others_wrote_is_no_message_in_hand(redis: PrefixedRedis) -> None:
    publisher = RedisPublisher(TaskSender(redis, NO_KEYS))
    redis.lpush(QUEUE, b"", b"5", b"\xff" * 300)
    for tag in ("", "|", f"{QUEUE}|", f"{QUEUE}|.", f"{QUEUE}|x.y", QUEUE, "%d|x.y"):
        redis.zadd(UNACKED_INDEX_KEY, {tag: 1})
        redis.hset("unacked", tag, b"garbage")
    probe = publisher.probe([QUEUE], [QUEUE])
    assert probe.found[QUEUE].in_hand == frozenset()
    assert probe.found[QUEUE].on_list <= {""}
    assert probe.waiting[QUEUE].messages == 3


def test_the_bytes_of_a_list_are_known(redis: PrefixedRedis) -> None:
    publisher = RedisPublisher(TaskSender(redis, NO_KEYS))
    assert publisher.probe([QUEUE], []).waiting[QUEUE] == Waiting(0, 0)
    redis.lpush(QUEUE, *[b"x" * 700_000] * 3)
    assert 2_100_000 <= publisher.probe([QUEUE], []).waiting[QUEUE].bytes < 2_500_000
