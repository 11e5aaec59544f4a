"""kombu's channel, with connections to the address that Sluice's own parser reads."""

from typing import Any

from kombu.transport import redis

from sluice.runtime.redis_address import parse_redis_url
from sluice.runtime.redis_pool import connection_class, open_pool


class AddressedChannel(redis.Channel):
    """The address is the transport option `redis_url`.

    kombu's own parser ignores the verification of certificates, and knows no files of secrets.
    """

    redis_url = ""
    from_transport_options: Any = (*redis.Channel.from_transport_options, "redis_url")

    @property
    def _address_url(self) -> str:
        return self.redis_url or str(self.connection.client.as_uri(include_password=True))

    @property
    def connection_class(self) -> Any:  # type: ignore[override]
        """redis-py's class of connections to the address. kombu derives its own class from it."""
        return connection_class(parse_redis_url(self._address_url))

    connection_class_ssl = connection_class

    def _get_pool(self, asynchronous: bool = False) -> Any:
        params = self._connparams(asynchronous=asynchronous)  # type: ignore[no-untyped-call]
        for name in ("host", "port", "path", "db", "username", "password"):
            params.pop(name, None)
        pool = open_pool(self._address_url, **params)
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=pool.connection_kwargs["db"])
        # kombu closes the connections to the Sentinels together with the pool.
        name = "_async_sentinel_manager" if asynchronous else "_sentinel_manager"
        setattr(self, name, getattr(pool, "sentinel_manager", None))
        return pool
