"""The bridge finds out where a message is: on a list in Redis, held by a connected worker, or nowhere."""

from collections.abc import Iterator
from typing import Any

import pytest

from sluice.bridge.publisher import RedisPublisher
from sluice.bridge.queue_state import Waiting, Whereabouts
from sluice.runtime.message_frame import HEAD_BYTES
from sluice.runtime.messages_in_hand import UNACKED_INDEX_KEY
from sluice.runtime.redis_client import PrefixedRedis, build_redis
from sluice.runtime.redis_item import write_item
from sluice.tasks.task_sender import TaskSender
from tests.system.runtime.holder import Holder
from tests.waiting import wait_until

PREFIX = "search-00000000:"
QUEUE, OTHER = "thing.0", "thing.00"
NOWHERE = Whereabouts()
NO_KEYS: Any = None


@pytest.fixture
def redis(redis_url: str) -> Iterator[PrefixedRedis]:
    with build_redis(redis_url, PREFIX) as client:
        yield client


def test_a_held_message_is_found_until_its_holder_has_disconnected(
    redis: PrefixedRedis, redis_url: str
) -> None:
    publisher = RedisPublisher(TaskSender(redis, NO_KEYS))

    def find() -> Whereabouts:
        return publisher.probe([], [QUEUE]).found[QUEUE]

    assert find() == NOWHERE
    for queue, name, version in ((QUEUE, "first", 3), (QUEUE, "second", 2), (OTHER, "other", 3)):
        redis.lpush(queue, write_item("a task", b"\n" * HEAD_BYTES, name, version=version))
    assert find() == Whereabouts(on_list=frozenset({"first", "second"}))
    holder = Holder(redis_url, PREFIX, QUEUE)
    wait_until(lambda: holder.turn().held, timeout_seconds=30, what="a message is taken")
    taken = Whereabouts(frozenset({"second"}), frozenset({"first"}))
    # In these turns, the holder's event loop also starts to listen to remote control.
    wait_until(lambda: holder.turn() and find() == taken, timeout_seconds=30, what="the message is held")
    assert publisher.probe([OTHER], [OTHER]).found[OTHER].on_list == {"other"}
    holder.vanish()
    wait_until(
        lambda: find() == Whereabouts(on_list=frozenset({"second"})),
        timeout_seconds=30,
        what="no worker holds the message",
    )


def test_foreign_data_in_redis_is_not_a_held_message(redis: PrefixedRedis) -> None:
    publisher = RedisPublisher(TaskSender(redis, NO_KEYS))
    redis.lpush(QUEUE, b"", b"5", b"\xff" * 300)
    for tag in ("", "|", f"{QUEUE}|", f"{QUEUE}|.", f"{QUEUE}|x.y", QUEUE, "%d|x.y"):
        redis.zadd(UNACKED_INDEX_KEY, {tag: 1})
        redis.hset("unacked", tag, b"garbage")
    probe = publisher.probe([QUEUE], [QUEUE])
    assert probe.found[QUEUE].in_hand == frozenset()
    assert probe.found[QUEUE].on_list <= {""}
    assert probe.waiting[QUEUE].messages == 3


def test_the_size_of_a_queue_is_reported_in_bytes(redis: PrefixedRedis) -> None:
    publisher = RedisPublisher(TaskSender(redis, NO_KEYS))
    assert publisher.probe([QUEUE], []).waiting[QUEUE] == Waiting(0, 0)
    redis.lpush(QUEUE, *[b"x" * 700_000] * 3)
    assert 2_100_000 <= publisher.probe([QUEUE], []).waiting[QUEUE].bytes < 2_500_000
