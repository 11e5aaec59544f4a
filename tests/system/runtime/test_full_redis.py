"""While Redis is full, a worker's connection takes and acknowledges messages, and no message is lost."""

import pytest

from sluice.runtime.message_frame import HEAD_BYTES
from sluice.runtime.messages_in_hand import UNACKED_INDEX_KEY, UNACKED_KEY, make_tag
from sluice.runtime.redis_client import build_redis
from sluice.runtime.redis_item import write_item
from tests.system.runtime.holder import Holder
from tests.waiting import wait_until

PREFIX, QUEUE = "full-00000000:", "thing.0"


@pytest.mark.own("redis")
def test_a_worker_empties_a_full_redis(redis_url: str) -> None:
    items = {
        name: write_item("a task", bytes(HEAD_BYTES), name)
        for name in ("first", "second", "of a killed worker")
    }
    with build_redis(redis_url, PREFIX) as redis:
        redis.lpush(QUEUE, items["first"], items["second"])
        tag = make_tag(QUEUE, "dead")
        redis.hset(UNACKED_KEY, tag, items["of a killed worker"])
        redis.zadd(UNACKED_INDEX_KEY, {tag: 1})
        redis.config_set("maxmemory", 1)
        # While Redis is full, the holder binds the remote control queue, takes the lock of a restore, and
        # tries to record the messages that it holds.
        holder = Holder(redis_url, PREFIX, QUEUE)
        for count in (1, 2):
            wait_until(
                lambda count=count: len(holder.turn().held) == count,  # type: ignore[misc]
                timeout_seconds=30,
                what=f"{count} messages are taken",
            )
            assert not redis.hexists(UNACKED_KEY, holder.held[-1].delivery_tag)
            holder.held[-1].ack()
        assert [message.headers["id"] for message in holder.held] == ["first", "second"]
        holder.qos.restore_by_tag(tag)
        holder.qos.restore_visible()
        assert (redis.llen(QUEUE), redis.hlen(UNACKED_KEY), redis.zcard(UNACKED_INDEX_KEY)) == (0, 1, 1)
        redis.config_set("maxmemory", 0)
        holder.qos.restore_visible()
        assert redis.lrange(QUEUE, 0, -1) == [items["of a killed worker"]]
        wait_until(lambda: len(holder.turn().held) == 3, timeout_seconds=30, what="the message is taken")
        assert redis.hkeys(UNACKED_KEY) == [holder.held[-1].delivery_tag.encode()]
        holder.held[-1].ack()
        assert not redis.exists(UNACKED_KEY, UNACKED_INDEX_KEY, QUEUE)
        holder.vanish()


@pytest.mark.own("redis")
def test_messages_taken_before_redis_was_full_are_acknowledged(redis_url: str) -> None:
    with build_redis(redis_url, PREFIX) as redis:
        redis.lpush(QUEUE, write_item("a task", bytes(HEAD_BYTES)))
        holder = Holder(redis_url, PREFIX, QUEUE)
        wait_until(lambda: holder.turn().held, timeout_seconds=30, what="a message is taken")
        assert redis.hlen(UNACKED_KEY) == 1
        redis.config_set("maxmemory", 1)
        holder.held[0].ack()
        assert not redis.exists(UNACKED_KEY, UNACKED_INDEX_KEY)
        holder.vanish()


@pytest.mark.own("redis")
def test_the_next_message_is_taken_although_an_acknowledgement_was_refused(redis_url: str) -> None:
    with build_redis(redis_url, PREFIX) as redis:
        redis.lpush(QUEUE, *(write_item("a task", bytes(HEAD_BYTES)) for _ in range(2)))
        holder = Holder(redis_url, PREFIX, QUEUE)
        wait_until(lambda: holder.turn().held, timeout_seconds=30, what="a message is taken")
        redis.config_set("min-replicas-to-write", 1)
        holder.held[0].ack()
        holder.turn()
        redis.config_set("min-replicas-to-write", 0)
        wait_until(lambda: len(holder.turn().held) == 2, timeout_seconds=30, what="the next message is taken")
        holder.vanish()
