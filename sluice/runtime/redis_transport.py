"""kombu's transport for Redis with the client of this package: every key carries the prefix."""

import functools
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from sluice.runtime.redis_client import PrefixedRedis


class Channel(redis.Channel):
    """kombu's channel; its prefix is `global_keyprefix` of the transport options."""

    def _get_client(self) -> Any:
        client = super()._get_client()  # type: ignore[no-untyped-call]
        if not self.global_keyprefix:
            return client
        return functools.partial(PrefixedRedis, redis_prefix=self.global_keyprefix)


class Transport(redis.Transport):
    """kombu's transport with this channel."""

    Channel = Channel


def install_transport() -> None:
    """Uses this transport for `redis://` addresses in this process. Idempotent.

    By kombu's table of transports, not by an address of its own: Flower reads the address's scheme.
    """
    TRANSPORT_ALIASES["redis"] = f"{__name__}:Transport"
