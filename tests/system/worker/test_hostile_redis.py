"""Malicious messages and keys that an attacker writes into Redis have no effect and end no process."""

import base64
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, cast
from uuid import uuid4

import pytest
from redis import Redis

from examples.shop.generate import generate
from sluice.db.delivery.installation import read_keys
from sluice.kafka_io.record_types import Record
from sluice.runtime.celery_options import APPLY_TASK, RELAY_TASK
from sluice.runtime.message_frame import MAX_MESSAGE_BYTES, Frame, seal
from sluice.runtime.redis_item import write_item
from sluice.stack.ports import choose_ports
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.events.routing import shard_of
from sluice.tasks.installation.formats import NEWEST_FORMAT
from sluice.tasks.task_messages import WRITERS, TaskCall
from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment
from tests.system.worker.test_flower import consumed

QUEUE = "payment.0"
OFFSET = 1_000_000
# The number of messages between two checks of the processes. A check takes one or two seconds.
ITEMS_AT_ONCE = 4
SERVICES = ("relay", "maintenance", "effects", "rebuild")


class Attacker:
    """An attacker with all rights in Redis. Some attacks also use the signing key, as after a leak."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.redis = Redis.from_url(deployment.urls.redis_url)
        self.prefix = deployment.installation.redis_prefix
        self.topic = next(name for name in deployment.registry.topics if name.startswith("payments"))

    def push(self, item: bytes, *queues: str) -> None:
        for queue in queues or (QUEUE, *SERVICES):
            self.redis.lpush(self.prefix + queue, item)

    def slice(self, *, topic_id: str | None = None, epoch: int = 1, shard: int = 0) -> Slice:
        """Returns a slice with a key of this shard. Applying it would skip all records up to OFFSET."""
        shards = self.deployment.registry.entities["payment"].shards
        key = next(key for key in map(b"%d".__mod__, range(1_000)) if shard_of(key, shards) == shard)
        if topic_id is None:
            session = self.deployment.session
            with session.connection.cursor() as cursor:
                cursor.execute("SELECT topic_id FROM sluice.topics WHERE topic = %s", (self.topic,))
                topic_id = str(cast("Any", cursor.fetchone())[0])
        return Slice(self.topic, topic_id, 0, epoch, -1, [Record(OFFSET, 0, key, b"{}", [])])

    def signed(self, call: TaskCall, *, key: bytes | None = None, version: int = NEWEST_FORMAT) -> bytes:
        installation = self.deployment.installation.id
        key = read_keys(self.deployment.session)[0].key if key is None else key
        return seal(key, Frame(version, installation, WRITERS[NEWEST_FORMAT](call)))

    def item(self, call: TaskCall, **how: Any) -> bytes:
        return write_item(call.task, self.signed(call, **how))

    def of_celery(self, **changes: Any) -> bytes:
        """Returns a message in Celery's own form: unsigned JSON."""
        piece = [*self.slice()[:5], [[OFFSET, 0, None, None, []]]]
        body = json.dumps([[QUEUE, [piece]], {}, {"callbacks": None, "errbacks": None}]).encode()
        message = {
            "body": base64.b64encode(body).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": APPLY_TASK, "id": str(uuid4()), "lang": "py"},
            "properties": {
                "delivery_tag": str(uuid4()),
                "delivery_info": {"exchange": "sluice", "routing_key": QUEUE},
                "body_encoding": "base64",
                "priority": 0,
            },
        }
        headers = message["headers"] | changes.pop("headers", {})
        return json.dumps(message | {"headers": headers} | changes).encode()


def apply_call(attacker: Attacker, **how: Any) -> TaskCall:
    return TaskCall(APPLY_TASK, (QUEUE, [attacker.slice(**how)]))


def altered(frame: bytes, at: int) -> bytes:
    changed = bytearray(frame)
    changed[at] ^= 1
    return bytes(changed)


def of_kombu_form(frame: bytes, **headers: Any) -> bytes:
    message = json.loads(write_item(APPLY_TASK, frame, version=2))
    return json.dumps(message | {"headers": message["headers"] | headers}).encode()


ITEMS: Mapping[str, Callable[[Attacker], bytes]] = {
    "empty": lambda _: b"",
    "not json": lambda _: b"\x80\x04\x95garbage",
    "a number": lambda _: b"5",
    "a list": lambda _: b"[1, 2]",
    "null": lambda _: b"null",
    "nested deeply": lambda _: b"[" * 200_000,
    "an object nested deeply": lambda _: b'{"headers":' * 100_000,
    "not utf-8": lambda _: b'{"body": "\xff\xfe"}',
    "without properties": lambda _: b'{"body": "", "headers": {"task": "sluice.apply", "id": "x"}}',
    "properties of another type": lambda a: a.of_celery(properties=[1]),
    "headers of another type": lambda _: b'{"body": "", "headers": 5, "properties": {}}',
    "body of another type": lambda a: a.of_celery(body={"a": 1}),
    "body that is not base64": lambda a: a.of_celery(body="%%%"),
    "too large": lambda _: b'{"body": "' + b"A" * MAX_MESSAGE_BYTES + b'"}',
    "from celery": lambda a: a.of_celery(),
    "from celery, with pickle": lambda a: a.of_celery(**{"content-type": "application/x-python-serialize"}),
    "from celery, with an unknown task": lambda a: a.of_celery(headers={"task": "os.system"}),
    "from celery, for the year 2100": lambda a: a.of_celery(headers={"eta": "2100-01-01T00:00:00"}),
    "from celery, with limits": lambda a: a.of_celery(headers={"timelimit": [0.001, 0.001], "expires": "x"}),
    "compressed": lambda a: of_kombu_form(a.signed(apply_call(a)), compression="application/x-bzip2"),
    "forged": lambda a: a.item(apply_call(a), key=b"k" * 32),
    "a changed mac": lambda a: write_item(APPLY_TASK, altered(a.signed(apply_call(a)), 0)),
    "a changed version": lambda a: write_item(APPLY_TASK, altered(a.signed(apply_call(a)), 32)),
    "another installation": lambda a: write_item(APPLY_TASK, altered(a.signed(apply_call(a)), 33)),
    "a changed offset": lambda a: write_item(APPLY_TASK, altered(a.signed(apply_call(a)), -20)),
    "truncated": lambda a: write_item(APPLY_TASK, a.signed(apply_call(a))[:-1]),
    "longer": lambda a: write_item(APPLY_TASK, a.signed(apply_call(a)) + b"\0"),
    "an empty frame": lambda _: of_kombu_form(b""),
    # These are signed with the right key. A later check refuses them.
    "a newer format": lambda a: a.item(apply_call(a), version=NEWEST_FORMAT + 1),
    "another epoch": lambda a: a.item(apply_call(a, epoch=7)),
    "another topic id": lambda a: a.item(apply_call(a, topic_id="another")),
    "the key of another queue": lambda a: a.item(apply_call(a, shard=1)),
    "another task in the envelope": lambda a: write_item(APPLY_TASK, a.signed(TaskCall(RELAY_TASK, ()))),
}


def _unacked(attacker: Attacker) -> None:
    for tag in ("x", f"{QUEUE}|x", b"\xff\xfe", ""):
        attacker.redis.hset(attacker.prefix + "unacked", cast("str", tag), "garbage")
        attacker.redis.zadd(attacker.prefix + "unacked_index", {cast("str", tag): 0})
    attacker.redis.zadd(attacker.prefix + "unacked_index", {"no message": 0, f"{QUEUE}|none": 1})


def _bindings(attacker: Attacker) -> None:
    for exchange in ("", "sluice", "celery.pidbox", "celeryev", "reply.celery.pidbox"):
        attacker.redis.delete(attacker.prefix + f"_kombu.binding.{exchange}")
        attacker.redis.sadd(
            attacker.prefix + f"_kombu.binding.{exchange}", b"\xff", "a", "a\x06\x16b\x06\x16c\x06\x16d"
        )


def _types(attacker: Attacker) -> None:
    for key in (
        *("unacked", "unacked_index", "unacked_mutex", "sentinel", "relay-wakeup", QUEUE, *SERVICES),
        *("_kombu.binding.celery.pidbox", "_kombu.binding.reply.celery.pidbox", "_kombu.binding_deadlines"),
    ):
        attacker.redis.delete(attacker.prefix + key)
        if key in ("sentinel", "relay-wakeup", "unacked_mutex"):
            attacker.redis.lpush(attacker.prefix + key, "x")
        else:
            attacker.redis.set(attacker.prefix + key, "x")


KEYS: Mapping[str, Callable[[Attacker], None]] = {
    "garbage among the held messages": _unacked,
    "garbage among the bindings": _bindings,
    "keys of another type": _types,
}


@pytest.fixture
def attacker(make_deployment: MakeDeployment) -> Attacker:
    """Yields an attacker of a running deployment with all kinds of processes."""
    deployment = make_deployment()
    deployment.run.with_metrics = True
    deployment.run.start_bridge()
    deployment.run.start_worker(name="worker")
    deployment.run.start_relay()
    deployment.run.start_effects()
    deployment.run.start_rebuilds()
    deployment.run.start_beat()
    deployment.produce(generate("payments", count=20, seed=1))
    deployment.wait_settled()
    return Attacker(deployment)


@pytest.mark.matrix
@pytest.mark.unforked
def test_malicious_data_in_redis_has_no_effect_and_ends_no_process(attacker: Attacker) -> None:
    deployment = attacker.deployment
    (port,) = choose_ports(("flower",), {}, set()).values()
    deployment.run.start_flower(port)
    shown = {
        "worker": set(deployment.queues()),
        "relay": {"relay", "maintenance"},
        "effects": {"effects"},
        "rebuild": {"rebuild"},
    }
    names = list(ITEMS)
    rounds = [names[first : first + ITEMS_AT_ONCE] for first in range(0, len(names), ITEMS_AT_ONCE)]
    rounds += [[name] for name in KEYS]
    with closing(attacker.redis):
        for seed, together in enumerate(rounds, start=2):
            for name in together:
                if name in ITEMS:
                    attacker.push(ITEMS[name](attacker))
                else:
                    KEYS[name](attacker)
            # After all attacks, valid events are still applied.
            deployment.produce(generate("payments", count=5, seed=seed))
            deployment.wait_settled()
            ended = [process.name for process in deployment.run.processes if process.exit_code is not None]
            assert ended == [], together
            deployment.wait_until(
                lambda: consumed(port) == shown,
                timeout_seconds=60,
                what="Flower shows all workers and queues",
            )
        deployment.wait_until(
            lambda: not any(attacker.redis.exists(attacker.prefix + queue) for queue in (QUEUE, *SERVICES)),
            timeout_seconds=60,
            what="every message is taken",
        )
    assert deployment.complaints(deployment.tables()) == []
    restarted = deployment.run.start_worker(name="successor")
    deployment.produce(generate("payments", count=5, seed=1_000))
    deployment.wait_settled()
    assert restarted.exit_code is None
