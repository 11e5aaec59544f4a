"""Reads the commands that a Redis executes, by MONITOR, and the keys of each command, by COMMAND GETKEYS."""

import re
import socket
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from redis import Redis, ResponseError

from tests.waiting import wait_until

CHANNEL_COMMANDS: dict[str, slice] = {"PUBLISH": slice(1, 2), "PUBSUB": slice(2, None)} | dict.fromkeys(
    ["SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"], slice(1, None)
)
"""Commands with channels. COMMAND GETKEYS does not return channels."""
KEYLESS = frozenset(
    [
        "AUTH",
        "CLIENT",
        "COMMAND",
        "CONFIG",
        "DISCARD",
        "ECHO",
        "EXEC",
        "HELLO",
        "INFO",
        "MULTI",
        "PING",
        "SCRIPT",
        "SELECT",
        "TIME",
        "UNWATCH",
    ]
)
"""Commands that access no key. SCAN, KEYS, RANDOMKEY and FLUSHDB are missing, because they access all keys.
"""
LONGEST_KEY = 300

_LINE = re.compile(rb"\+?[\d.]+ \[\d+ (\S+)\] (.*)", re.DOTALL)
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|(.))", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


class Executed(NamedTuple):
    """One command. The source is the address of the client, or `lua` if a script has called the command."""

    source: str
    words: tuple[bytes, ...]


def read_line(line: bytes) -> Executed | None:
    """Returns the command in a line of MONITOR. Returns None for the line OK."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    words = (_ESCAPE.sub(_unescape, word) for word in _WORD.findall(found[2]))
    return Executed(found[1].decode(), tuple(words))


def _unescape(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode()) if found[1] else _LETTERS.get(found[2], found[2])


class RedisMonitor:
    """Collects all commands of a Redis server within a `with` block."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        address = urlsplit(redis_url)
        self._socket = socket.create_connection((address.hostname, address.port))
        self._socket.sendall(b"MONITOR\r\n")
        self._reader = threading.Thread(target=self._read)
        self.executed: list[Executed] = []

    def __enter__(self) -> "RedisMonitor":
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        # When this ECHO is in the list, the list also contains all earlier commands.
        last = uuid4().hex.encode()
        with Redis.from_url(self._url) as client:
            client.echo(last)
        wait_until(
            lambda: self.executed and any(last in one.words for one in self.executed[-20:]),
            timeout_seconds=30,
            what="all commands are read",
        )
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            while line := lines.readline():
                executed = read_line(line.removesuffix(b"\r\n"))
                if executed is not None:
                    self.executed.append(executed)


def read_keys(redis: Any, commands: Iterable[Executed]) -> dict[Executed, list[bytes]]:
    """Returns the keys and channels of each command, as the Redis server determines them."""
    keys: dict[Executed, list[bytes]] = {}
    asked: list[Executed] = []
    for one in commands:
        name = one.words[0].decode().upper()
        if name in CHANNEL_COMMANDS:
            keys[one] = list(one.words[CHANNEL_COMMANDS[name]])
        else:
            asked.append(one)
    with redis.pipeline(transaction=False) as pipeline:
        for one in asked:
            # Long values are shortened, because the positions of the keys do not depend on the values.
            pipeline.execute_command("COMMAND GETKEYS", *(word[:LONGEST_KEY] for word in one.words))
        answers: list[Any] = pipeline.execute(raise_on_error=False)
    for one, answer in zip(asked, answers, strict=True):
        if isinstance(answer, ResponseError) and one.words[0].decode().upper() in KEYLESS:
            answer = []
        found = [f"? {answer}"] if isinstance(answer, ResponseError) else answer
        keys[one] = [key.encode() if isinstance(key, str) else key for key in found]
    return keys


def find_strays(redis: Any, commands: Iterable[Executed], prefix: str) -> set[tuple[str, bytes]]:
    """Returns (command, key) for every key that does not begin with the prefix, or contains it two times."""
    start = prefix.encode()
    return {
        (one.words[0].decode().upper(), key)
        for one, found in read_keys(redis, set(commands)).items()
        for key in found
        if not key.startswith(start) or key.count(start) > 1
    }
