"""What every operation starts with: a session, the code's declarations, the addresses of the services."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import NamedTuple

from sluice.db.connection import Session
from sluice.runtime.service_urls import StackUrls, read_addresses
from sluice.runtime.settings import Settings, read_settings
from sluice.tasks.fold.registry import Registry, collect_handlers


class Environment(NamedTuple):
    """The settings of this process, what its handlers declare, and where the services are."""

    settings: Settings
    registry: Registry
    urls: StackUrls


def read_environment() -> Environment:
    """Reads the environment and imports the handlers. Raises SettingsError or HandlersRefused."""
    settings = read_settings()
    urls = read_addresses(settings)
    return Environment(settings, collect_handlers(settings.handlers), urls)


@contextmanager
def connected(name: str, *, plans: Mapping[str, str] = MappingProxyType({})) -> Iterator[Session]:
    """Yields a session that Postgres shows as `name`. Raises SettingsError."""
    url = read_addresses(read_settings()).database_url
    with closing(Session(url, application_name=name, plans=plans)) as session:
        yield session
