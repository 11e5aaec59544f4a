"""`queue_subscription` uses private attributes of kombu. These tests check them, and the data in Redis."""

import time
from collections.abc import Iterator
from types import MethodType, SimpleNamespace
from typing import Any, cast

import pytest
from celery import Celery
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.asynchronous import Hub, set_event_loop
from kombu.connection import Connection
from kombu.messaging import Consumer

from sluice.runtime.app import QUEUE_ORDER
from sluice.runtime.celery_options import TRANSPORT_OPTIONS, apply_queue
from sluice.runtime.message_frame import HEAD_BYTES
from sluice.runtime.redis_client import build_redis
from sluice.runtime.redis_item import Item, read_item, write_item
from sluice.runtime.redis_transport import install_transport
from sluice.stack import Stack
from sluice.worker.queue_subscription import BRPOP_SECONDS, LeaseCycle, QueueSubscription
from sluice.worker.reconnecting_consumer import ReconnectingConsumer
from tests.waiting import wait_until

PREFIX = "loop-00000000:"
QUEUES = ("thing.0", "thing.1")
# kombu has no useful types.
connect: Any = Connection
make_consumer: Any = Consumer


class Loop:
    """Celery's consumer and its hub, as `QueueSubscription` uses them.

    Acknowledges every message, unless a test sets `acknowledges` to False.
    """

    def __init__(self, url: str) -> None:
        install_transport()
        self.redis = build_redis(url, PREFIX)
        options = {**TRANSPORT_OPTIONS, "queue_order_strategy": QUEUE_ORDER, "global_keyprefix": PREFIX}
        self.connection: Any = connect(url, transport_options=options)
        self.app = Celery("loop", broker=url)
        self.app.amqp.queues = self.app.amqp.Queues([apply_queue(name) for name in QUEUES])
        self.app.amqp.queues.deselect(QUEUES)
        self.hub: Any = Hub()  # type: ignore[no-untyped-call]
        set_event_loop(self.hub)
        self.connection.transport.register_with_event_loop(self.connection.connection, self.hub)
        self.channel: Any = self.connection.default_channel
        self.arrived: list[Any] = []
        self.held: list[Any] = []
        self.acknowledges = True
        task_consumer = make_consumer(self.channel, [], on_message=self._note)
        self.celery = SimpleNamespace(task_consumer=task_consumer, app=self.app)
        for method in ("add_task_queue", "cancel_task_queue"):
            setattr(self.celery, method, MethodType(getattr(CeleryConsumer, method), self.celery))
        self.consuming = QueueSubscription(self.celery)

    def _note(self, message: Any) -> None:
        self.arrived.append(number_of(message.body))
        if self.acknowledges:
            message.ack()
        else:
            self.held.append(message)

    def publish(self, queue: str, *bodies: int) -> None:
        """Publishes messages as the bridge does."""
        for body in bodies:
            self.redis.lpush(queue, write_item("a task", frame_of(body)))

    def until_pending(self) -> None:
        """Runs the loop until a BRPOP is pending."""
        self._turns(lambda: bool(self.channel._in_poll), "a BRPOP is pending")

    def until_arrived(self, *bodies: int) -> None:
        """Runs the loop until exactly these messages have arrived, in this order."""
        self._turns(lambda: len(self.arrived) >= len(bodies), f"{bodies} have arrived")
        assert self.arrived == list(bodies)

    def until_released(self, queue: str) -> None:
        """Runs the loop until the queue is released."""

        def given() -> bool:
            self.consuming.adjust(set(QUEUES) - {queue})
            return queue not in self.consuming.queues

        self._turns(given, f"{queue} is released")

    def waiting(self, queue: str) -> list[int]:
        """Returns the messages in the list. The first one is popped next."""
        items = cast("list[bytes]", self.redis.lrange(queue, 0, -1))
        return [body_of(item) for item in reversed(items)]

    def close(self) -> None:
        """Closes the connection without waiting for a pending BRPOP."""
        self.connection.close()
        self.hub.close()
        self.redis.close()

    def _turns(self, condition: Any, what: str) -> None:
        def turn() -> bool:
            self.hub.run_once()
            return bool(condition())

        wait_until(turn, timeout_seconds=10, what=what)


def frame_of(number: int) -> bytes:
    return bytes(HEAD_BYTES) + str(number).encode()


def number_of(frame: bytes) -> int:
    return int(frame[HEAD_BYTES:])


def body_of(raw: bytes) -> int:
    item = read_item(raw)
    assert isinstance(item, Item)
    return number_of(item.frame)


@pytest.fixture
def loop(redis_url: str) -> Iterator[Loop]:
    made = Loop(redis_url)
    yield made
    made.close()


def test_the_attributes_of_kombu_exist_and_have_the_expected_meaning(loop: Loop) -> None:
    channel = loop.channel
    assert isinstance(channel._queue_cycle, LeaseCycle)
    assert channel.brpop_timeout == BRPOP_SECONDS
    assert not channel._in_poll
    loop.consuming.adjust(set(QUEUES))
    loop.until_pending()
    assert channel._queue_cycle.named == set(QUEUES)
    loop.acknowledges = False
    loop.publish("thing.0", 1)
    loop.until_arrived(1)
    ((tag, message),) = channel.qos._delivered.items()
    assert message.delivery_info["routing_key"] == "thing.0"
    assert loop.redis.hkeys(channel.unacked_key) == [tag.encode()]
    assert loop.redis.zrange(channel.unacked_index_key, 0, -1) == [tag.encode()]
    message.ack()
    assert channel.qos._dirty == {tag}
    assert loop.redis.hlen(channel.unacked_key) == 0


def test_a_released_queue_keeps_its_messages_in_order(loop: Loop) -> None:
    loop.consuming.adjust(set(QUEUES))
    loop.until_pending()
    loop.consuming.adjust({"thing.1"})
    assert "thing.0" in loop.consuming.queues, "released although a BRPOP of the queue is pending"
    loop.publish("thing.0", 1, 2, 3)
    loop.until_arrived(1)
    loop.until_released("thing.0")
    assert loop.waiting("thing.0") == [2, 3]
    loop.publish("thing.1", 4)
    loop.until_arrived(1, 4)
    assert loop.waiting("thing.0") == [2, 3]


def test_a_message_of_a_cancelled_queue_returns_to_the_head_of_the_queue(loop: Loop) -> None:
    loop.consuming.adjust(set(QUEUES))
    loop.until_pending()
    loop.celery.cancel_task_queue("thing.0")
    loop.publish("thing.0", 1, 2, 3)
    wait_until(lambda: loop.redis.llen("thing.0") < 3, timeout_seconds=10, what="a message is popped")
    loop.publish("thing.1", 4)
    loop.until_arrived(4)
    assert loop.waiting("thing.0") == [1, 2, 3]


def test_a_queue_with_a_held_message_is_not_released(loop: Loop) -> None:
    loop.acknowledges = False
    loop.consuming.adjust(set(QUEUES))
    loop.publish("thing.0", 1)
    loop.until_arrived(1)
    loop.publish("thing.1", 2)
    loop.consuming.adjust({"thing.1"})
    loop.until_arrived(1, 2)
    assert "thing.0" in loop.consuming.queues
    loop.held[0].ack()
    loop.until_released("thing.0")


def test_messages_of_a_killed_worker_return_to_the_head_in_order(loop: Loop, redis_url: str) -> None:
    dead = Loop(redis_url)
    dead.acknowledges = False
    dead.consuming.adjust(set(QUEUES))
    dead.publish("thing.0", 1, 2, 3)
    dead.publish("thing.1", 4)
    wait_until(
        lambda: dead.hub.run_once() or len(dead.arrived) == 4, timeout_seconds=10, what="all have arrived"
    )
    dead.publish("thing.0", 5)
    order = [body for body in dead.arrived if body != 4]
    # The worker does not restore the messages that it holds, as after kill -9.
    dead.channel.qos._delivered.clear()
    dead.channel.do_restore = False
    set_event_loop(loop.hub)
    loop.consuming.adjust({"thing.0"})
    assert loop.waiting("thing.0") == [*order, 5]
    assert loop.waiting("thing.1") == [], "a worker must not restore messages of queues that it does not have"
    dead.close()


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("wrong", ["holder", "judge"])
def test_the_age_of_held_messages_is_measured_by_the_clock_of_redis(
    loop: Loop, redis_url: str, monkeypatch: pytest.MonkeyPatch, wrong: str, hours: int
) -> None:
    def set_clock(by: float) -> None:
        now = time.time() + by
        for name in ("time.time", "kombu.transport.redis.time"):
            monkeypatch.setattr(name, lambda: now)

    loop.acknowledges = False
    loop.consuming.adjust({"thing.0"})
    loop.publish("thing.0", 1)
    set_clock(hours * 3_600 if wrong == "holder" else 0)
    loop.until_arrived(1)
    monkeypatch.undo()
    set_clock(hours * 3_600 if wrong == "judge" else 0)
    judge = Loop(redis_url)
    set_event_loop(loop.hub)
    judge.channel.qos.visibility_timeout = 60
    judge.channel.qos.restore_visible(num=100)
    assert loop.waiting("thing.0") == [], (
        "a message that was held for less than a minute must not be restored"
    )
    judge.channel.qos.visibility_timeout = 0
    judge.channel.qos.restore_visible(num=100)
    assert loop.waiting("thing.0") == [1]
    judge.close()


def test_a_queue_that_is_not_declared_can_be_consumed(loop: Loop) -> None:
    loop.consuming.adjust({"thing.9"})
    loop.publish("thing.9", 1)
    loop.until_arrived(1)


def lose_broker(consumer_class: Any, loop: Loop, redis: Stack) -> None:
    """Simulates a lost connection of Celery's consumer with a held message on each of two channels."""
    loop.acknowledges = False
    loop.channel.brpop_timeout = 60  # The BRPOP must still be pending when Redis ends.
    loop.consuming.adjust(set(QUEUES))
    other, queue = loop.connection.channel(), cast("Any", apply_queue("other"))
    queue.bind(other).declare()
    loop.publish("thing.0", 1)
    loop.publish("other", 2)
    loop.until_arrived(1)
    assert other.basic_get("other") is not None
    loop.until_pending()
    redis.stop("redis", signal="kill")
    consumer = consumer_class.__new__(consumer_class)
    consumer.app, consumer.connection = loop.app, loop.connection
    # These settings skip steps that require a complete consumer.
    loop.app.conf.worker_cancel_long_running_tasks_on_connection_loss = True
    loop.app.conf.worker_enable_prefetch_count_reduction = False
    consumer.on_connection_error_after_connected(ConnectionError("simulated"))
    assert consumer.connection is None


@pytest.mark.own("redis")
def test_a_lost_broker_with_held_messages_does_not_end_the_worker(loop: Loop, redis: Stack) -> None:
    lose_broker(ReconnectingConsumer, loop, redis)


@pytest.mark.own("redis")
def test_a_lost_broker_with_held_messages_ends_the_consumer_of_celery(loop: Loop, redis: Stack) -> None:
    with pytest.raises(AttributeError, match="hostname"):
        lose_broker(CeleryConsumer, loop, redis)


def test_commands_share_one_client_and_the_blocking_reads_have_their_own(loop: Loop) -> None:
    shared = loop.channel._create_client()
    assert loop.channel._create_client() is shared
    loop.channel._disconnect_pools()  # as after a lost connection
    assert loop.channel._create_client() is not shared
    assert len({loop.channel._create_client(), loop.channel.client, loop.channel.subclient}) == 3
