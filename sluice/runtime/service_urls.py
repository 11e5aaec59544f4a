"""The services' addresses, out of the settings, refused where no client could use them."""

from contextlib import suppress
from dataclasses import dataclass

from redis.connection import parse_url
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from sluice.runtime.outages import Server
from sluice.runtime.redis_failures import redis_address
from sluice.runtime.settings import Settings, SettingsError

DATABASE_URL = "SLUICE_DATABASE_URL"


REDIS_URL = "SLUICE_REDIS_URL"


KAFKA_BOOTSTRAP_SERVERS = "SLUICE_KAFKA_BOOTSTRAP_SERVERS"


@dataclass(frozen=True)
class StackUrls:
    """How to reach a running stack, in the form the settings want it."""

    database_url: str
    redis_url: str
    kafka_bootstrap_servers: str

    def environ(self) -> dict[str, str]:
        """The environment that makes a Sluice process use this stack."""
        return {
            DATABASE_URL: self.database_url,
            REDIS_URL: self.redis_url,
            KAFKA_BOOTSTRAP_SERVERS: self.kafka_bootstrap_servers,
        }


def shown_addresses(settings: Settings) -> dict[Server, str]:
    """Returns the addresses as the log shows them, without passwords. One that cannot be read is left out."""
    shown: dict[Server, str] = {"Kafka": settings.kafka_bootstrap_servers}
    with suppress(ArgumentError, ValueError):
        url = make_url(settings.database_url.get_secret_value())
        shown["Postgres"] = (
            f"{url.host or url.query.get('host', 'localhost')}:{url.port or 5432}/{url.database}"
        )
    with suppress(ValueError):
        shown["Redis"] = redis_address(settings.redis_url.get_secret_value())
    return shown


def read_addresses(settings: Settings) -> StackUrls:
    """How to reach the services. Holds secrets in the clear: never print it. Raises SettingsError."""
    try:
        make_url(settings.database_url.get_secret_value())
    except (ArgumentError, ValueError):
        # Without the error's text, which may hold the password.
        raise SettingsError("SLUICE_DATABASE_URL cannot be read as a URL") from None
    try:
        parse_url(settings.redis_url.get_secret_value())  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise SettingsError(f"SLUICE_REDIS_URL: {error}") from None
    for server in settings.kafka_bootstrap_servers.split(","):
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError(f"SLUICE_KAFKA_BOOTSTRAP_SERVERS: {server!r} is not host:port")
    return StackUrls(
        settings.database_url.get_secret_value(),
        settings.redis_url.get_secret_value(),
        settings.kafka_bootstrap_servers,
    )
