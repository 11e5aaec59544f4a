"""Makes the connection pools of both clients, redis-py and kombu, from one address.

TLS verifies the certificate and the host name unless the URL turns this off.
"""

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from sluice.runtime.redis_address import RedisAddress, parse_redis_url
from sluice.runtime.secret_files import SecretUnreadable, current_url

SOCKET_TIMEOUT_SECONDS = 5
"""The longest time for which a Redis that drops packets blocks a loop."""
LIMITS = {"socket_timeout": SOCKET_TIMEOUT_SECONDS, "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS}


class ClusterRefused(redis.ResponseError):
    """Raised if the server is part of a Redis Cluster: its keys are on several servers."""


class FileCredentials(CredentialProvider):
    """Reads user and password from the files of a URL. redis-py asks at each connect."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Returns the arguments of AUTH. Raises ConnectionError if a file cannot be read."""
        address = _current_address(self._url)
        return (address.username, address.password) if address.username else (address.password,)


def login_options(url: str) -> dict[str, Any]:
    """Returns redis-py's options for the login at the server."""
    address = parse_redis_url(url)
    if address.reads_files:
        return {"credential_provider": FileCredentials(url)}
    return {"username": address.username or None, "password": address.password or None}


def connection_class(address: RedisAddress) -> type[Any]:
    """Returns redis-py's class of connections to this address."""
    if address.path:
        return redis.UnixDomainSocketConnection
    if address.service:
        return SentinelManagedConnection if address.tls is None else SentinelManagedSSLConnection
    return redis.Connection if address.tls is None else redis.SSLConnection


def open_pool(url: str, **options: Any) -> redis.ConnectionPool:
    """Returns a pool, which connects at its first use. `options` are redis-py's options of connections."""
    address = parse_redis_url(url)
    made: dict[str, Any] = {
        "connection_class": connection_class(address),
        **LIMITS,
        **options,
        **login_options(url),
        **(address.tls or {}),
        "db": address.database,
    }
    if address.path:
        return redis.ConnectionPool(path=address.path, **made)
    if address.service:
        return SentinelConnectionPool(address.service, _FreshSentinel(url), **made)  # type: ignore[no-untyped-call]
    [(host, port)] = address.servers
    return redis.ConnectionPool(host=host, port=port, **made)


def open_client(url: str, **options: Any) -> redis.Redis:
    """Returns a client without a prefix."""
    made = redis.Redis(connection_pool=open_pool(url, **options))
    made.auto_close_connection_pool = True
    return made


def require_no_cluster(client: redis.Redis) -> None:
    """Raises ClusterRefused if the server is part of a Redis Cluster."""
    information: Any = client.info("cluster")
    if information.get("cluster_enabled"):
        raise ClusterRefused("the server runs in cluster mode")


class _FreshSentinel(Sentinel):
    """The Sentinels of an address. Their password is read again each time that the server is looked up."""

    def __init__(self, url: str) -> None:
        self._url = url
        super().__init__(parse_redis_url(url).servers, sentinel_kwargs=self._options())  # type: ignore[no-untyped-call]

    def discover_master(self, service_name: str) -> Any:
        """Returns host and port of the server. Raises MasterNotFoundError.

        The error of redis-py names no cause and takes no line that a person can read.
        """
        address = _current_address(self._url)
        login = {"username": address.sentinel_username, "password": address.sentinel_password}
        failures, found = [], []
        for client in list(self.sentinels):
            client.connection_pool.connection_kwargs.update({k: v or None for k, v in login.items()})
            try:
                masters: Any = client.sentinel_masters()
            except redis.RedisError as error:
                failures.append(str(error))
                continue
            state = masters.get(service_name)
            found.append(state)
            if state and self.check_master_state(state, service_name):  # type: ignore[no-untyped-call]
                self.sentinels.remove(client)
                self.sentinels.insert(0, client)  # it is asked first the next time
                return state["ip"], state["port"]
        raise MasterNotFoundError(_describe_search(service_name, found, failures))

    def _options(self) -> dict[str, Any]:
        options = parse_redis_url(self._url).tls
        tls = {} if options is None else {"ssl": True, **options}
        # The next Sentinel is asked at once: by default redis-py would try each one ten times.
        return {**LIMITS, **tls, "retry": Retry(NoBackoff(), 0)}


def _describe_search(name: str, found: list[Any], failures: list[str]) -> str:
    if not found:
        return f"no Sentinel answers: {'; '.join(one.rstrip('.') for one in dict.fromkeys(failures))}"
    if not any(found):
        return f"the Sentinels know no server with the name {name!r}"
    return f"the Sentinels see no running server with the name {name!r}"


def _current_address(url: str) -> RedisAddress:
    try:
        return parse_redis_url(current_url(url))
    except SecretUnreadable as error:
        # The file may be replaced at this moment.
        raise redis.ConnectionError(str(error)) from None
    except ValueError as error:
        raise redis.AuthenticationError(f"SLUICE_REDIS_URL_FILE: {error}") from None
