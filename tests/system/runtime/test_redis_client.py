"""The Redis client has the server's table of keys and sends no key without the prefix."""

from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
from redis import ConnectionError, Redis

from sluice.runtime import redis_client
from sluice.runtime.redis_client import UnknownCommand, build_redis, with_prefix
from tests.mutants import mutated
from tests.system.runtime.redis_monitor import CHANNEL_COMMANDS, KEYLESS, RedisMonitor, find_strays
from tests.waiting import wait_until

PREFIX = "shop-0123abcd:"
KEY = f"{PREFIX}key"


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    """Yields a client of the same database that adds no prefix."""
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """Yields the client under test."""
    with build_redis(redis_url, PREFIX) as made:
        yield made


def differences(commands: dict[str, Any], module: ModuleType) -> list[str]:
    """Returns the differences between the client's table and the server."""
    found = []
    for name, (start, end) in module._KEYS.items():
        if name in CHANNEL_COMMANDS:
            continue  # Redis does not return channels as keys.
        told = commands[name.lower()]
        server = (told["first_key_pos"], told["last_key_pos"], told["step_count"])
        last = -1 if end is None else end - 1 if end < 0 else end
        if server != (start + 1, last, 1):
            found.append(f"{name}: {server} in Redis, {(start, end)} in the table")
    found += [
        name for name in module._SCRIPTS if "movablekeys" not in map(str, commands[name.lower()]["flags"])
    ]
    found += [name for name in module._WITHOUT_KEYS if commands[name.lower()]["first_key_pos"] != 0]
    return found


MUTANTS = {
    "only the first key of EXISTS": ('"EXISTS",', ""),
    "every word is a key": ("_FIRST = (0, 1)", "_FIRST = (0, None)"),
    "the timeout is a key": ('"BRPOP": (0, -1)', '"BRPOP": (0, None)'),
    "GET has no key": ('"DBSIZE",', '"DBSIZE", "GET",'),
}


def test_the_table_of_keys_agrees_with_the_server(raw: Any) -> None:
    commands: dict[str, Any] = raw.command()
    assert differences(commands, redis_client) == []
    for old, new in MUTANTS.values():
        copy = mutated(redis_client, old, new)
        copy._KEYS.setdefault("EXISTS", (0, 1))
        assert differences(commands, copy), new


def test_the_commands_without_keys_access_no_key(raw: Any) -> None:
    commands: dict[str, Any] = raw.command()
    assert all(commands[name.lower()]["first_key_pos"] == 0 for name in KEYLESS)
    # DBSIZE counts the keys of all installations, but returns no key.
    assert redis_client._WITHOUT_KEYS - {"DBSIZE"} <= KEYLESS


@pytest.mark.parametrize(
    "words", [("KEYS", "*"), ("SCAN", 0), ("FLUSHDB",), ("SORT", "a"), ("SCRIPT FLUSH",)]
)
def test_an_unknown_command_is_refused(client: Any, raw: Any, words: tuple[Any, ...]) -> None:
    raw.set("other", "1")
    with pytest.raises(UnknownCommand):
        client.execute_command(*words)
    with pytest.raises(UnknownCommand):
        client.pipeline().execute_command(*words)
    assert raw.get("other") == b"1"


def test_keys_that_are_bytes_or_numbers_get_the_prefix() -> None:
    assert with_prefix("a:", ["del", "x", b"y", 3]) == ["del", "a:x", b"a:y", "a:3"]
    assert with_prefix("a:", ["EVALSHA", "sum", 2, "x", "y", "z"]) == ["EVALSHA", "sum", 2, "a:x", "a:y", "z"]


def test_pipelines_add_the_prefix_with_and_without_a_transaction(client: Any, raw: Any) -> None:
    for transaction in (True, False):
        with client.pipeline(transaction=transaction) as pipeline:
            pipeline.set("key", "1").delete("key", "gone").lpush("key", "2").llen("key")
            assert pipeline.execute()[1:] == [1, 1, 1]
        assert raw.keys() == [KEY.encode()]
        raw.flushdb()


def test_a_transaction_watches_the_key_with_the_prefix(client: Any, raw: Any) -> None:
    def change(pipeline: Any) -> None:
        value = int(pipeline.get("key") or 0)
        if value == 0:
            raw.set(KEY, 7)  # This concurrent write makes the transaction run again.
        pipeline.multi()
        pipeline.set("key", value + 1)

    client.transaction(change, "key")
    assert raw.get(KEY) == b"8"


def test_locks_and_scripts_add_the_prefix(client: Any, raw: Any) -> None:
    with client.lock("mutex", timeout=60):
        assert raw.keys() == [f"{PREFIX}mutex".encode()]
        assert not client.lock("mutex", timeout=60).acquire(blocking=False)
    assert raw.keys() == []
    script = client.register_script("return redis.call('RPUSH', KEYS[1], KEYS[2], ARGV[1])")
    raw.script_flush()  # After a restart, Redis also has no scripts. redis-py then loads the script again.
    script(keys=["key", "second"], args=["key"])
    assert raw.lrange(KEY, 0, -1) == [f"{PREFIX}second".encode(), b"key"]


def test_brpop_returns_the_key_without_the_prefix(client: Any, raw: Any) -> None:
    raw.rpush(KEY, "value")
    assert client.brpop(["other", "key"], timeout=1) == (b"key", b"value")
    assert client.brpop(["key"], timeout=1) is None


def test_pubsub_survives_the_loss_of_its_connection(client: Any, raw: Any) -> None:
    heard: list[tuple[str, Any, Any]] = []
    with client.pubsub() as subscriber:
        subscriber.subscribe("plain")
        subscriber.psubscribe("pattern.*")

        def listen() -> bool:
            message = subscriber.get_message(timeout=0.1)
            if message:
                heard.append((message["type"], message["channel"], message["data"]))
            return ("message", b"plain", b"1") in heard and ("pmessage", b"pattern.x", b"2") in heard

        def subscribed() -> bool:
            with suppress(ConnectionError):
                # This call detects the lost connection. The next call connects and subscribes again.
                subscriber.get_message(timeout=0.1)
            return raw.pubsub_channels() == [f"{PREFIX}plain".encode()] and bool(raw.pubsub_numpat())

        for lost in (False, True):
            heard.clear()
            if lost:
                raw.client_kill_filter(_type="pubsub", skipme=True)
            wait_until(subscribed, timeout_seconds=10, what="both subscriptions are active")
            client.publish("plain", "1")
            client.publish("pattern.x", "2")
            raw.publish("plain", "3")  # This is a message of another installation.
            wait_until(listen, timeout_seconds=10, what="both messages are received")
            assert all(data != b"3" for _, _, data in heard)
        subscriber.unsubscribe()
        subscriber.punsubscribe()


@pytest.mark.own("redis")
def test_the_monitor_finds_a_key_without_the_prefix(redis_url: str) -> None:
    with Redis.from_url(redis_url) as raw:
        with RedisMonitor(redis_url) as monitor, build_redis(redis_url, PREFIX) as client:
            raw.ping()
            client.set('key"\\\n\x00é', "a b")
            client.delete("x", "y")
            client.eval("redis.call('GET', KEYS[1]); return redis.call('GET', 'stray lua')", 1, "key")
            raw.delete(KEY, "stray key")
            raw.publish("stray channel", "x")
            raw.eval("return 1", 2, KEY, "stray script key")
            raw.execute_command("KEYS", "*")
            raw.set(f"{PREFIX}{PREFIX}twice", "1")
            wait_until(
                lambda: any(b"twice" in one.words[1:2][0] for one in monitor.executed if len(one.words) > 1),
                timeout_seconds=10,
                what="the last command is read",
            )
        strays = find_strays(raw, monitor.executed, PREFIX)
    assert ("SET", f'{PREFIX}key"\\\n\x00é'.encode()) in {
        (one.words[0].decode(), one.words[1]) for one in monitor.executed if len(one.words) > 1
    }
    assert {name for name, key in strays if key.startswith(b"stray")} == {"GET", "DEL", "PUBLISH", "EVAL"}
    assert {name for name, key in strays if not key.startswith(b"stray")} == {"KEYS", "SET"}
