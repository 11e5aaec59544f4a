"""Counts the keys of a Redis database by installation, and deletes the keys of one installation."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from redis import Redis
from redis.exceptions import ResponseError

from sluice.admin.decisions import OperationRefused
from sluice.db.delivery.living_processes import Process
from sluice.runtime.installation import NAME_PATTERN, Installation
from sluice.runtime.redis_pool import open_client

PAGE_KEYS = 1_000  # read or deleted per round trip; Redis serves other clients in between
_PREFIX = re.compile(rf"({NAME_PATTERN}-[0-9a-f]{{8}}):")
_GROUP = re.compile(rf"{NAME_PATTERN}-[0-9a-f]{{8}}")


@dataclass(frozen=True)
class PrefixUse:
    """The keys of one installation. If `group` is None, all keys without the prefix of an installation.

    `idle_seconds` is the time since one of the keys was last used; None if the server does not record it.
    """

    group: str | None
    keys: int = 0
    bytes: int = 0
    idle_seconds: int | None = None

    def with_key(self, size: int | None, idle_seconds: int | None) -> "PrefixUse":
        """Returns these keys and one more key. `size` is None for a key that was deleted meanwhile."""
        if size is None:
            return self
        known = [idle for idle in (self.idle_seconds, idle_seconds) if idle is not None]
        return PrefixUse(self.group, self.keys + 1, self.bytes + size, min(known, default=None))


def group_of(key: bytes) -> str | None:
    """Returns `<name>-<short id>` of the installation that a key belongs to, None if it has no prefix."""
    found = _PREFIX.match(key.decode(errors="replace"))
    return found[1] if found else None


def open_redis(redis_url: str) -> Redis:
    """Returns a client that sees the keys of all installations."""
    return open_client(redis_url)


def read_prefixes(client: Redis) -> list[PrefixUse]:
    """Returns the keys of each prefix, sorted by name; keys without a prefix are last."""
    found: dict[str | None, PrefixUse] = {}
    for page in _pages(client, "*"):
        for key, size, idle in zip(page, _sizes(client, page), _idle_times(client, page), strict=True):
            group = group_of(key)
            found[group] = found.get(group, PrefixUse(group)).with_key(size, idle)
    return sorted(found.values(), key=lambda use: (use.group is None, use.group or ""))


def read_prefix(client: Redis, group: str) -> PrefixUse:
    """Returns the keys of one prefix."""
    use = PrefixUse(group)
    for page in _pages(client, f"{group}:*"):
        for size, idle in zip(_sizes(client, page), _idle_times(client, page), strict=True):
            use = use.with_key(size, idle)
    return use


def require_cleanable(prefix: str, own: Installation, living: Sequence[Process]) -> str:
    """Returns the group of a prefix that may be deleted. Raises OperationRefused. Pure."""
    group = prefix.removesuffix(":")
    if not _GROUP.fullmatch(group):
        raise OperationRefused(f"{prefix} is not the prefix of an installation; see `sluice redis ls`")
    if group == own.group and living:
        names = ", ".join(sorted(f"{one.kind} {one.node}" for one in living))
        raise OperationRefused(
            f"{group} is this installation, and its processes are running: {names}; stop them first"
        )
    return group


def delete_prefix(
    client: Redis, group: str, *, deleted: Callable[[int], object] = lambda _: None
) -> tuple[int, PrefixUse]:
    """Deletes the keys of a group, PAGE_KEYS at a time. Returns the number of deleted keys, and
    the keys that are left. Idempotent.

    Passes to `deleted` after each step how many keys were deleted. A key created meanwhile may be left.
    """
    gone = 0
    for page in _pages(client, f"{group}:*"):
        gone += int(client.unlink(*page))
        deleted(gone)
    return gone, replace(read_prefix(client, group), idle_seconds=None)


def _pages(client: Redis, pattern: str) -> Iterator[list[bytes]]:
    # SCAN may return a key twice while other keys are deleted or created.
    seen: set[bytes] = set()
    keys = client.scan_iter(pattern, count=PAGE_KEYS)
    while page := list(islice(keys, PAGE_KEYS)):
        fresh = [key for key in dict.fromkeys(page) if key not in seen]
        seen.update(fresh)
        if fresh:
            yield fresh


def _sizes(client: Redis, keys: Iterable[bytes]) -> list[int | None]:
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.memory_usage(key)
    return list(pipeline.execute())


def _idle_times(client: Redis, keys: Iterable[bytes]) -> list[int | None]:
    """Returns the seconds since each key was used. A server that evicts by frequency does not record them."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.object("idletime", key)
    answers = pipeline.execute(raise_on_error=False)
    if errors := [
        one for one in answers if isinstance(one, Exception) and not isinstance(one, ResponseError)
    ]:
        raise errors[0]
    return [answer if isinstance(answer, int) else None for answer in answers]
