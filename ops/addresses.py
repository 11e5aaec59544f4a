"""The services' addresses, out of the settings, refused where no client could use them."""

from redis.connection import parse_url
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ops.stack import StackUrls
from tasks.settings import Settings, SettingsError


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
