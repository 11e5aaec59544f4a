"""Reads the services' addresses from the settings, and refuses addresses that no client could use."""

from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from sluice.runtime.database_url import UrlRefused, libpq_options
from sluice.runtime.kafka_access import PLAINTEXT, KafkaAccess, KafkaSecurity
from sluice.runtime.outages import Server
from sluice.runtime.redis_failures import redis_address
from sluice.runtime.schema_name import SCHEMA_SETTING, named_schema
from sluice.runtime.settings import Settings, SettingsError

DATABASE_URL = "SLUICE_DATABASE_URL"
REDIS_URL = "SLUICE_REDIS_URL"
KAFKA_BOOTSTRAP_SERVERS = "SLUICE_KAFKA_BOOTSTRAP_SERVERS"


@dataclass(frozen=True)
class StackUrls:
    """The addresses of a running stack, in the form of the settings."""

    database_url: str
    redis_url: str
    kafka_bootstrap_servers: str
    kafka_security: KafkaSecurity = PLAINTEXT

    @property
    def kafka_access(self) -> KafkaAccess:
        """How clients reach Kafka."""
        return KafkaAccess(self.kafka_bootstrap_servers, self.kafka_security)

    def environ(self) -> dict[str, str]:
        """Returns the environment variables that make a process of Sluice use this stack."""
        schema = named_schema(self.database_url)
        return {
            DATABASE_URL: self.database_url,
            REDIS_URL: self.redis_url,
            KAFKA_BOOTSTRAP_SERVERS: self.kafka_bootstrap_servers,
            **({} if schema is None else {SCHEMA_SETTING: schema}),
            **self.kafka_security.environ(),
        }


def shown_addresses(settings: Settings) -> dict[Server, str]:
    """Returns the addresses for the log, without passwords. Omits addresses that cannot be parsed."""
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
    """Returns the services' addresses. They contain secrets: never print them. Raises SettingsError."""
    try:
        libpq_options(make_url(settings.database_url.get_secret_value()))
    except UrlRefused as refused:
        raise SettingsError(f"SLUICE_DATABASE_URL: {refused}") from None
    except (ArgumentError, ValueError):
        # The text of the error is left out, because it may contain the password.
        raise SettingsError(
            "SLUICE_DATABASE_URL cannot be read as a URL; several hosts are written"
            " postgresql+psycopg2://user@/database?host=a:5432&host=b:5432"
        ) from None
    for server in settings.kafka_bootstrap_servers.split(","):
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError(f"SLUICE_KAFKA_BOOTSTRAP_SERVERS: {server!r} is not host:port")
    return StackUrls(
        settings.database_url.get_secret_value(),
        settings.redis_url.get_secret_value(),
        settings.kafka_bootstrap_servers,
        settings.kafka_access.security,
    )
