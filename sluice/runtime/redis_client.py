"""The client of Redis that all processes use. It adds the installation's prefix to every key.

kombu's own prefixing client has a list of commands, and sends all other commands without the prefix. This
client has a table with the positions of the keys in each command, and refuses all other commands.

If a key has a type that does not match its name, another program wrote the key. The client deletes such a key
and sends the command again. Nothing is lost: Kafka and Postgres have all that Sluice stores in Redis.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import redis
from redis import client

from sluice.runtime.dropped_messages import dropped
from sluice.runtime.redis_pool import open_pool

_TYPES = {
    "unacked": "hash",
    "unacked_index": "zset",
    "unacked_mutex": "string",
    "_kombu.binding_deadlines": "zset",
    "sentinel": "string",
    "relay-wakeup": "string",
    "claims": "hash",
}
_BINDINGS = ("_kombu.binding.", "_kombu.binding_permanent.")

_FIRST = (0, 1)
_ALL = (0, None)
# Command → the range of its arguments that are keys (end exclusive; None: to the last, -1: all but the last).
_KEYS: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(
        [
            "GET",
            "SET",
            "INCR",
            "EXPIRE",
            "PEXPIRE",
            "TTL",
            "PTTL",
            "TYPE",
            "LLEN",
            "LPUSH",
            "RPUSH",
            "LPOP",
            "RPOP",
            "LRANGE",
            "LINDEX",
            "HGET",
            "HSET",
            "HDEL",
            "HLEN",
            "HGETALL",
            "HMGET",
            "HEXISTS",
            "HKEYS",
            "HSCAN",
            "SADD",
            "SREM",
            "SMEMBERS",
            "SCARD",
            "SISMEMBER",
            "ZADD",
            "ZREM",
            "ZRANGE",
            "ZREVRANGE",
            "ZRANGEBYSCORE",
            "ZREVRANGEBYSCORE",
            "ZCARD",
            "ZSCORE",
            "PUBLISH",
        ],
        _FIRST,
    ),
    **dict.fromkeys(
        [
            "EXISTS",
            "DEL",
            "UNLINK",
            "MGET",
            "WATCH",
            "SUBSCRIBE",
            "UNSUBSCRIBE",
            "PSUBSCRIBE",
            "PUNSUBSCRIBE",
        ],
        _ALL,
    ),
    "BRPOP": (0, -1),
}
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})  # the arguments are: script, number of keys, keys…
_WITHOUT_KEYS = frozenset(
    [
        "PING",
        "ECHO",
        "AUTH",
        "HELLO",
        "SELECT",
        "CLIENT",
        "INFO",
        "CONFIG",
        "TIME",
        "MULTI",
        "EXEC",
        "DISCARD",
        "UNWATCH",
        "DBSIZE",
        "COMMAND",
    ]
)
_SUBCOMMANDS_WITHOUT_KEYS = frozenset({"SCRIPT LOAD", "SCRIPT EXISTS", "MEMORY DOCTOR"})


class UnknownCommand(Exception):
    """Raised for a command whose keys are unknown. Add the command to the table of this module."""


def with_prefix(prefix: str, args: Sequence[Any]) -> list[Any]:
    """Returns the words of a command with the prefix before each key. Raises UnknownCommand.

    An argument of a script gives the number of its keys. A key behind these keys gets no prefix.
    """
    span = _key_span(args)
    return [*args[: span.start], *(_prefixed(prefix, args[at]) for at in span), *args[span.stop :]]


def type_of_key(name: str) -> str:
    """Returns the type that a key of this name must have. The name has no prefix. A queue is a list."""
    return "set" if name.startswith(_BINDINGS) else _TYPES.get(name, "list")


def _key_span(args: Sequence[Any]) -> range:
    """Returns the positions of the keys in a command. Raises UnknownCommand."""
    command, *words = args
    name = str(command).upper()
    if name in _WITHOUT_KEYS or (words and f"{name} {words[0]}".upper() in _SUBCOMMANDS_WITHOUT_KEYS):
        return range(0)
    # redis-py passes some commands of two words as one text.
    if name in _SUBCOMMANDS_WITHOUT_KEYS or name.partition(" ")[0] in _WITHOUT_KEYS:
        return range(0)
    if name in _SCRIPTS:
        start, end = 2, 2 + int(words[1])
    elif name == "MEMORY USAGE":
        start, end = _FIRST
    elif name in _KEYS:
        start, last = _KEYS[name]
        end = len(words) if last is None else last if last >= 0 else len(words) + last
    else:
        raise UnknownCommand(f"cannot prefix the keys of the Redis command {name}")
    return range(1 + start, 1 + end)


def _prefixed(prefix: str, key: Any) -> bytes | str:
    if isinstance(key, bytes):
        return prefix.encode() + key
    return f"{prefix}{key}"


def _repair(connection_pool: Any, prefix: str, commands: Iterable[Sequence[Any]]) -> bool:
    """Deletes those keys of the commands that have a wrong type. Returns True if there were such keys.

    The keys in `commands` have the prefix.
    """
    found = set()
    for args in commands:
        for at in _key_span(args):
            key = args[at].decode(errors="replace") if isinstance(args[at], bytes) else str(args[at])
            found.add(key)
    plain = redis.Redis(connection_pool=connection_pool)
    wrong = [
        key
        for key in found
        if plain.type(key) not in (type_of_key(key.removeprefix(prefix)), b"none", "none")
    ]
    for key in wrong:
        dropped.note("key of a wrong type", key=key[:100])
        plain.unlink(key)
    return bool(wrong)


def is_wrong_type(error: Exception) -> bool:
    """Returns True if Redis refused the command because a key has a wrong type."""
    return isinstance(error, redis.ResponseError) and "WRONGTYPE" in str(error)


class PrefixedRedis(redis.Redis):
    """A client that adds the prefix to every key."""

    def __init__(self, *args: Any, redis_prefix: str, **kwargs: Any) -> None:
        self.redis_prefix = redis_prefix
        super().__init__(*args, **kwargs)

    def _prefix_args(self, args: Sequence[Any]) -> list[Any]:
        """kombu's channel calls this method by this name, before it sends a BRPOP itself."""
        return with_prefix(self.redis_prefix, args)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Sends a command. If a key has a wrong type, deletes the key and sends the command again."""
        words = self._prefix_args(args)
        try:
            return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if not is_wrong_type(error) or not _repair(self.connection_pool, self.redis_prefix, [words]):
                raise
        return super().execute_command(*words, **options)  # type: ignore[no-untyped-call]

    def repair_queues(self, queues: Iterable[str]) -> None:
        """Deletes those of the queues that are not lists."""
        _repair(self.connection_pool, self.redis_prefix, [self._prefix_args(["DEL", *queues])])

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Returns the answer. The key in the answer of a BRPOP has no prefix."""
        answer: Any = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name == "BRPOP" and answer:
            key, value = answer
            return key[len(self.redis_prefix) :], value
        return answer

    def pipeline(self, transaction: bool = False, shard_hint: Any = None) -> "PrefixedPipeline":
        """Returns a pipeline with the same prefix. By default, it uses no transaction.

        A full Redis refuses every transaction, even if it allows the same commands outside of a transaction.
        """
        return PrefixedPipeline(
            self.connection_pool,
            self.response_callbacks,
            transaction,
            shard_hint,
            redis_prefix=self.redis_prefix,
        )

    def pubsub(self, **kwargs: Any) -> "PrefixedPubSub":
        """Returns a subscriber with the same prefix."""
        return PrefixedPubSub(self.connection_pool, redis_prefix=self.redis_prefix, **kwargs)


class PrefixedPipeline(client.Pipeline):
    """See PrefixedRedis."""

    def __init__(self, *args: Any, redis_prefix: str, **kwargs: Any) -> None:
        self.redis_prefix = redis_prefix
        super().__init__(*args, **kwargs)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queues a command, or sends it at once after a WATCH."""
        return super().execute_command(*with_prefix(self.redis_prefix, args), **options)  # type: ignore[no-untyped-call]

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Sends the queued commands. If a key has a wrong type, deletes the key and sends all commands again.

        Then Redis runs the commands that succeeded the first time twice. If the pipeline watches keys, raises
        WatchError instead of sending again, as after a change by another client.
        """
        commands, watches = list(self.command_stack), self.watching
        try:
            return super().execute(raise_on_error)
        except redis.ResponseError as error:
            words = [args for args, _ in commands]
            if not is_wrong_type(error) or not _repair(self.connection_pool, self.redis_prefix, words):
                raise
            if watches:
                raise redis.WatchError("a watched key was of a wrong type") from error
        self.command_stack = commands
        return super().execute(raise_on_error)


class PrefixedPubSub(client.PubSub):
    """See PrefixedRedis. Returns channels without the prefix."""

    def __init__(self, *args: Any, redis_prefix: str, **kwargs: Any) -> None:
        self.redis_prefix = redis_prefix
        super().__init__(*args, **kwargs)

    def execute_command(self, *args: Any) -> Any:
        """Sends a command."""
        return super().execute_command(*with_prefix(self.redis_prefix, args))  # type: ignore[no-untyped-call]

    def parse_response(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the answer, with channels without the prefix."""
        answer: Any = super().parse_response(*args, **kwargs)  # type: ignore[no-untyped-call]
        if not isinstance(answer, list | tuple) or len(answer) < 3:
            return answer
        kind, *channels, last = answer
        return [kind, *(None if name is None else name[len(self.redis_prefix) :] for name in channels), last]


def build_redis(redis_url: str, prefix: str, **options: Any) -> PrefixedRedis:
    """Returns a client of the installation with this prefix. It connects at its first command."""
    made = PrefixedRedis(connection_pool=open_pool(redis_url, **options), redis_prefix=prefix)
    made.auto_close_connection_pool = True
    return made
