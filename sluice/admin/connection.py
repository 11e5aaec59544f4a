"""The session of a command."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType

from sluice.db.connection import Session
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings


@contextmanager
def connected(name: str, *, plans: Mapping[str, str] = MappingProxyType({})) -> Iterator[Session]:
    """Its one session, `name` being what Postgres calls it by. Raises SettingsError."""
    url = read_addresses(read_settings()).database_url
    with closing(Session(url, application_name=name, plans=plans)) as session:
        yield session
